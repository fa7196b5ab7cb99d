"""The `dsync` command with short leases, and with little patience for plug-ins that say nothing.

A script for child processes: what takes half a minute in earnest takes two seconds here, and is the same otherwise.
"""

from __future__ import annotations

import functools

from dsync.app import ends, sync
from dsync.cli.main import main
from dsync.plugins.supervision import Patience

LEASE_S = 2.0
PATIENCE = Patience(ask_every_s=1.0, answer_within_s=1.0)


def shorten(module: object, name: str, **settings: object) -> None:
    """Give the function that a module calls by this name other defaults."""
    setattr(module, name, functools.partial(getattr(module, name), **settings))


if __name__ == "__main__":
    shorten(sync, "acquire", ttl_s=LEASE_S)
    shorten(ends, "OpenOptions", patience=PATIENCE)
    main()
