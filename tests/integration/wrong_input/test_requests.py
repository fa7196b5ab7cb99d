"""A request that is wrong by itself: exit 2 before any server is asked, and nothing made anywhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.integration.wrong_input.guarded import CANARY, GuardedDsync


class Door:
    """A port at which nobody may have knocked."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)

    @property
    def uri(self) -> str:
        return f"postgresql://someone:{quote(CANARY, safe='')}@127.0.0.1:{self._socket.getsockname()[1]}/shop"

    def close(self) -> None:
        with self._socket, pytest.raises(BlockingIOError):
            self._socket.accept()


@pytest.fixture
def door() -> Iterator[str]:
    """The URI of a server that is never contacted."""
    one = Door()
    yield one.uri
    one.close()


COPY = ("--mode", "copy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sync", "oracle://h/db", "{door}", *COPY), ("source", "oracle://", "postgresql://", "dsync connectors list")),
        (("sync", "{door}", "mysql://u:pw@h/db", *COPY), ("sink", "mysql://", "postgresql://")),
        (("sync", "{door}?wibble=1", "{door}", *COPY), ("source", "'wibble'", "dsync connectors show postgres")),
        (("sync", "{door}", "{door}?partition_bytes=many", *COPY), ("sink", "partition_bytes")),
        (("sync", "random://?wobble=1", "{door}", *COPY), ("source", "'wobble'", "dsync connectors show random")),
        (("sync", "shop", "{door}", *COPY), ("source", "scheme://", "env:NAME")),
        (("sync", "{door}", "env:NOT_SET", *COPY), ("sink", "NOT_SET", "not set")),
        (("sync", "{door}", "file:/no/such/file", *COPY), ("sink", "/no/such/file", "No such file")),
        (("sync", "{door}", "grpc://db.example:7777", *COPY), ("sink", "grpcs://", "--allow-plaintext")),
        (("sync", "{door}", *COPY), ("SINK", "flow file")),
        (("sync", "{door}", "{door}", "--mode", "stream", "--on-existing", "drop"), ("--mode stream", "--on-existing")),
        (("sync", "{door}", "{door}", "--slot-timeout", "soon"), ("--slot-timeout", "90s")),
        (("sync", "{door}", "{door}", *COPY, "--wibble"), ("--wibble", "dsync sync --help")),
        (("sync", "{door}", "{door}", *COPY, "--page-bytes", "1"), ("--page-bytes", "64 KiB")),
        (("sync", "{door}", "{door}", *COPY, "--state", "mysql://u:pw@h/db"), ("--state", "sqlite:///PATH")),
        (("sync", "{door}", "{door}", *COPY, "--on-existing", "truncate"), ("--on-existing truncate", "--yes")),
        (("sync", "{door}", "{door}", *COPY, "--rate-limit", "fast"), ("--rate-limit", "5000/s", "20MiB/s")),
        (("sync", "{door}", "{door}", *COPY, "--exclude", "a:b"), ("exclude", "a:b", "TO")),
        # What a later version brings is unknown, not accepted and ignored.
        (("sync", "{door}", "{door}", *COPY, "--also", "null://"), ("--also",)),
        (("sync", "{door}", "{door}", *COPY, "--transform", "mapping:x"), ("--transform",)),
        (("sync", "{door}", "{door}", *COPY, "--metrics", "0.0.0.0:1"), ("--metrics", "--allow-plaintext")),
        (("sync", "{door}", "{door}", *COPY, "--until-caught-up"), ("--until-caught-up",)),
        (("cutover", "nightly"), ("no flow nightly",)),
    ],
    ids=lambda value: " ".join(value[1:]) if value[0] in ("sync", "cutover") else "",
)
def test_a_wrong_request_says_which_part_of_it_and_contacts_nobody(
    dsync: GuardedDsync, door: str, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    """The end, the option or the argument, and what would be right in its place."""
    message = dsync.refused(*(word.format(door=door) for word in words), exit_code=2)

    for text in said:
        assert text in message
    assert dsync.flows == ()


def test_a_password_in_the_wrong_place_is_not_repeated(dsync: GuardedDsync, door: str) -> None:
    """As an endpoint, in a scheme that there is not, beside a parameter that there is not, as an option's value."""
    for words in (
        ("env:NO_URI", f"oracle://someone:{CANARY}@h/db"),
        (f"{door}?password={CANARY}&wibble=1", door),
        (door, door, "--page-bytes", f"postgresql://u:{CANARY}@h/db"),
    ):
        # What is printed, and everybody's command lines, are searched by the fixture.
        ended = dsync("sync", *words, *COPY, NO_URI=CANARY)
        assert (ended.exit_code, ended.stdout) == (2, "")
