"""References to secrets: `env:NAME` and `file:PATH` stand for a text that is not to be typed or stored.

They are resolved in the process that needs the text, as late as it is needed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dsync.protocol.errors import OptionError

_REFERENCE = re.compile(r"(env|file):(?!//)(.+)\Z", re.DOTALL)
_LARGEST_FILE_BYTES = 64 * 1024


def is_reference(text: str) -> bool:
    """Whether this is `env:NAME` or `file:PATH`; `file://…` is a URI of the file connector."""
    return _REFERENCE.match(text) is not None


def resolve(text: str, *, what: str) -> str:
    """What a reference stands for, or the text itself where it is none.

    `what` names the thing in messages, which tell the variable or the path and never the content.

    Raises:
        OptionError: the variable is not set, or the file cannot be read.
    """
    match = _REFERENCE.match(text)
    if match is None:
        return text
    kind, name = match.groups()
    return _variable(name, what) if kind == "env" else _file(name, what)


def _variable(name: str, what: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise OptionError(f"{what}: the environment variable {name} is not set; export it or name another")
    return value


def _file(name: str, what: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE_BYTES + 1)
        text = data.decode()
    except OSError as exc:
        raise OptionError(f"{what}: cannot read the file {path} ({exc.strerror}); check its path and its mode") from exc
    except UnicodeDecodeError:
        # Without the cause: its message quotes bytes of the file.
        raise OptionError(f"{what}: the file {path} is not UTF-8 text") from None
    if len(data) > _LARGEST_FILE_BYTES:
        raise OptionError(f"{what}: the file {path} is larger than a secret can be; name another")
    # Editors end a file with a newline that is not part of a password.
    return text.rstrip("\r\n")
