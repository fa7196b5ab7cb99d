"""Passwords on the command line: found, and wiped from what `ps` shows of this process.

Runs before anything else, so it imports next to nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

_AUTHORITY = re.compile(r"[A-Za-z][\w+.-]*://(?P<rest>[^?#]*)(?P<tail>.*)", re.DOTALL)
_PARAMETER = re.compile(r"(?:^|[?&\s])(?P<name>[^=&?\s]+)=(?P<value>'[^']*'|[^&\s]*)")
_SECRET_NAME = re.compile(r"pass(?!file)|pwd|secret|token|credential|access_?key|private", re.IGNORECASE)
_PORT_AND_PATH = re.compile(r"\d*(?:/|\Z)")
_REFERENCE = re.compile(r"(?:env|file):(?!//)")
_SECRET_FLAGS = ("--token",)
_WIPED = ord("*")


def hide_secrets(arguments: Sequence[str]) -> frozenset[str]:
    """Wipe every secret of these arguments, which are the last ones of this process; returns the secrets.

    What cannot be wiped (another system than Linux and macOS) stays visible to other users, which is why references
    such as `env:NAME` are the better way.
    """
    spans = list(_all_spans(arguments))
    if not spans:
        return frozenset()
    found = secrets_of(arguments)
    if sys.platform == "linux":
        _wipe_on_linux(arguments, spans)
    elif sys.platform == "darwin":
        _wipe_on_macos(arguments, spans)
    return found


def secrets_of(arguments: Sequence[str]) -> frozenset[str]:
    """The secrets that these texts hold in the clear, as typed and decoded.

    Without those that are none after all, because the same argument says them elsewhere (`postgres:postgres@`):
    blanking such a word everywhere would only tell which one it is.
    """
    texts = [
        arguments[index][start:end]
        for index, start, end in _all_spans(arguments)
        if arguments[index][start:end] not in arguments[index][:start] + " " + arguments[index][end:]
    ]
    return frozenset(form for text in texts for form in (text, text.strip("'"), unquote(text)) if form)


def _all_spans(arguments: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Index of the argument, start and end of each secret in it."""
    for index, argument in enumerate(arguments):
        for start, end in secret_spans(argument):
            yield index, start, end
        if index and arguments[index - 1] in _SECRET_FLAGS and argument and not _REFERENCE.match(argument):
            yield index, 0, len(argument)


def secret_spans(argument: str) -> Iterator[tuple[int, int]]:
    """Where one argument holds a secret: the password of a URI, the value of a parameter with such a name."""
    login = _login_span(argument)
    if login is not None:
        colon = argument.find(":", *login)
        if 0 <= colon < login[1] - 1:
            yield colon + 1, login[1]
    for parameter in _PARAMETER.finditer(argument):
        if (
            parameter["value"]
            and _SECRET_NAME.search(unquote(parameter["name"]))
            and not _REFERENCE.match(unquote(parameter["value"]))
        ):
            yield parameter.span("value")


def _login_span(argument: str) -> tuple[int, int] | None:
    """Where `user:password` of a URI stands, up to the last @, so that rather too much than too little is hidden."""
    authority = _AUTHORITY.search(argument)
    if authority is None:
        return None
    rest = authority["rest"]
    if "@" in rest:
        return authority.start("rest"), authority.start("rest") + rest.rindex("@")
    # A password with ? or # that should have been escaped ends what looks like the host.
    _, colon, after = rest.partition(":")
    if colon and "@" in authority["tail"] and not _PORT_AND_PATH.match(after):
        return authority.start("rest"), authority.start("tail") + authority["tail"].rindex("@")
    return None


def _wipe_on_linux(arguments: Sequence[str], spans: Sequence[tuple[int, int, int]]) -> None:
    """Overwrite the arguments where the kernel reads /proc/PID/cmdline from: our own stack.

    Its bounds are the fields 48 and 49 of /proc/self/stat (proc_pid_stat(5)). prctl(PR_SET_MM_ARG_START) would
    move them, and is for root.
    """
    import ctypes

    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, IndexError, ValueError):
        return
    if not 0 < start < end:
        return
    present = ctypes.string_at(start, end - start).removesuffix(b"\0").split(b"\0")
    first = len(present) - len(arguments)
    # An interpreter may have changed its title already; then there is nothing of ours to find.
    if first < 0 or present[first:] != [os.fsencode(argument) for argument in arguments]:
        return
    offsets = [start]
    for text in present:
        offsets.append(offsets[-1] + len(text) + 1)
    for index, begin, stop in spans:
        skipped, length = _byte_span(arguments[index], begin, stop)
        ctypes.memset(offsets[first + index] + skipped, _WIPED, length)


def _wipe_on_macos(arguments: Sequence[str], spans: Sequence[tuple[int, int, int]]) -> None:
    """The same through _NSGetArgv (crt_externs.h), whose strings are the ones that `ps` reads."""
    import ctypes

    get_argv = ctypes.CDLL(None)._NSGetArgv
    get_argv.restype = ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))
    vector = get_argv().contents
    count = 0
    while vector[count]:
        count += 1
    first = count - len(arguments)
    for index, begin, stop in spans:
        address = vector[first + index] if first + index >= 0 else None
        if address and ctypes.string_at(address) == os.fsencode(arguments[index]):
            skipped, length = _byte_span(arguments[index], begin, stop)
            ctypes.memset(address + skipped, _WIPED, length)


def _byte_span(argument: str, begin: int, stop: int) -> tuple[int, int]:
    return len(os.fsencode(argument[:begin])), len(os.fsencode(argument[begin:stop]))
