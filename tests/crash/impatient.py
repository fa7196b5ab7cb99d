"""The `dsync` command in a hurry: what takes half a minute in earnest takes a second or two, and is the same otherwise.

A script for child processes; its first argument says what is short, as in `lease,grace`:

- lease: a coordinator that does not renew its lease loses it after two seconds; lease:6 after six,
- answers: a plug-in that says nothing for two seconds is replaced,
- grace: a plug-in that does not end within a second when it is asked to is killed.
"""

from __future__ import annotations

import functools
import sys

from dsync.app import ends, holding
from dsync.cli.main import main
from dsync.plugins.supervision import Patience

LEASE_S = 2.0
GRACE_S = 1.0
PATIENCE = Patience(ask_every_s=1.0, answer_within_s=1.0)


def shorten(module: object, name: str, **settings: object) -> None:
    """Give the function that a module calls by this name other defaults."""
    setattr(module, name, functools.partial(getattr(module, name), **settings))


if __name__ == "__main__":
    short = sys.argv.pop(1).split(",")
    for word in short:
        name, _, seconds = word.partition(":")
        if name == "lease":
            shorten(holding, "acquire", ttl_s=float(seconds or LEASE_S))
    if "answers" in short:
        shorten(ends, "OpenOptions", patience=PATIENCE)
    if "grace" in short:
        shorten(ends, "OpenOptions", grace_s=GRACE_S)
    main()
