"""Frames say what the server has sent, in its order, and where they end; however they are cut they say the same."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dsync_postgres.stream.frames import FrameBuilder
from dsync_postgres.stream.keys import TableKey, key_of
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.transactions import Transactions
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk import errors
from dsync.sdk.types import ChangeFrame, Operation
from tests.unit.stream import encoding as e

_OID, _FULL, _BARE, _NUM = 5, 6, 7, 8
_START = Position(system_id="1", timeline=1, end_lsn=100)
_TABLES: Mapping[int, TableKey] = {
    _OID: TableKey(columns=("id",), forms={"id": "plain", "x": "plain"}),
    _FULL: TableKey(columns=("id",), forms={"id": "plain", "x": "plain"}),
    _BARE: TableKey(forms={"id": "plain", "x": "plain"}),
    _NUM: TableKey(columns=("id",), forms={"id": "numeric"}),
}


def _columns(*, full: bool = False) -> list[e.Column]:
    return [e.Column(name="id", type_oid=23, is_identity=True), e.Column(name="x", is_identity=full)]


_DESCRIBED = [
    e.relation(_OID, _columns(), name="t"),
    e.relation(_FULL, _columns(full=True), name="full", identity="f"),
    e.relation(_BARE, _columns(full=True), name="bare", identity="f"),
    e.relation(_NUM, _columns(), name="num"),
]


def _row(*values: e.Value) -> bytes:
    return e.row(values)


def _transaction(number: int, *changes: bytes) -> list[bytes]:
    lsn = 100 * number
    return [
        e.begin(commit_lsn=lsn, xid=number, time_us=number),
        *changes,
        e.commit(commit_lsn=lsn, end_lsn=lsn + 10, time_us=number),
    ]


def _frames(
    folder: Path,
    messages: list[bytes],
    *,
    position: Position = _START,
    every: int = 0,
    namespaces: tuple[str, ...] = (),
) -> list[ChangeFrame]:
    """The frames of a stream, cut after so many changes; 0: one frame."""
    builder = FrameBuilder(position, tables=_TABLES, namespaces=namespaces, frame_bytes=1 << 20)
    transactions = Transactions(folder, lambda relation: key_of(relation, _TABLES))
    found = []
    for event in transactions.feed([b"w" + bytes(24) + message for message in [*_DESCRIBED, *messages]]):
        builder.add(event)
        if every and len(builder) >= every:
            found.append(builder.flush(str))
    return [*found, builder.flush(str)]


def _records(frame: ChangeFrame) -> Iterator[tuple[Operation, str, int, bytes]]:
    count, body, start = len(frame), bytes(frame.body), 0
    for operation, relation, key, size in zip(
        frame.operations,
        struct.unpack(f"<{count}H", frame.relation_of),
        struct.unpack(f"<{count}Q", frame.key_hashes),
        struct.unpack(f"<{count}I", frame.sizes),
        strict=True,
    ):
        name = frame.relations[relation].namespace
        yield Operation(operation), name, key, body[start : start + size]
        start += size
    assert start == len(body)


def _changes(frames: list[ChangeFrame]) -> list[tuple[Operation, str, int, bytes]]:
    return [record for frame in frames for record in _records(frame) if record[0] is not Operation.RESHAPE]


def _one(folder: Path, *changes: bytes) -> list[tuple[Operation, str, int, bytes]]:
    return _changes(_frames(folder, _transaction(2, *changes)))


def test_records_are_what_the_server_has_sent(tmp_path: Path) -> None:
    """Sliced, not rebuilt: the message after the table's id."""
    one, two = _row(b"1", b"a"), _row(b"1", b"b")
    found = _one(tmp_path, e.insert(_OID, one), e.update(_OID, two), e.delete(_OID, old_key=_row(b"1", None)))
    assert [(operation, name, record) for operation, name, _, record in found] == [
        (Operation.INSERT, "public.t", b"N" + one),
        (Operation.UPDATE, "public.t", b"N" + two),
        (Operation.DELETE, "public.t", b"K" + _row(b"1", None)),
    ]
    assert len({key for _, _, key, _ in found}) == 1


def test_a_changed_key_is_a_deletion_and_an_insertion(tmp_path: Path) -> None:
    """Each under its own key's hash, so that each reaches its key's lane; the old row never stays behind."""
    old, new = _row(b"1", None), _row(b"2", b"b")
    (deleted, inserted) = _one(tmp_path, e.update(_OID, new, old_key=old))
    (as_one, as_two) = _one(tmp_path, e.insert(_OID, _row(b"1", b"")), e.insert(_OID, _row(b"2", b"")))
    assert deleted == (Operation.DELETE, "public.t", as_one[2], b"K" + old)
    assert inserted == (Operation.INSERT, "public.t", as_two[2], b"N" + new)


def test_a_value_that_was_not_sent_is_never_taken_for_null(tmp_path: Path) -> None:
    """A partial update of the same key, a move to another; with the whole old row at hand, the value from there."""
    kept = _row(b"1", e.UNCHANGED)
    (partial,) = _one(tmp_path, e.update(_OID, kept))
    (move,) = _one(tmp_path, e.update(_OID, kept, old_key=_row(b"7", None)))
    (full,) = _one(tmp_path, e.update(_FULL, kept, old=_row(b"1", b"big")))
    gone, come = _one(tmp_path, e.update(_FULL, kept, old=_row(b"7", b"big")))
    assert (partial[0], partial[3]) == (Operation.PARTIAL_UPDATE, b"N" + kept)
    assert (move[0], move[3]) == (Operation.MOVE, b"K" + _row(b"7", None) + b"N" + kept)
    assert (full[0], full[3]) == (Operation.UPDATE, b"O" + _row(b"1", b"big") + b"N" + _row(b"1", b"big"))
    assert (gone[0], gone[3]) == (Operation.DELETE, b"O" + _row(b"7", b"big"))
    assert (come[0], come[3]) == (Operation.INSERT, b"N" + _row(b"1", b"big"))


def test_keys_that_are_equal_to_the_server_have_equal_hashes(tmp_path: Path) -> None:
    """1.0 and 1.00 are one key: in two lanes the deletion of one could come after the insertion of the other."""
    found = _one(tmp_path, *(e.insert(_NUM, _row(value, None)) for value in (b"1", b"1.0", b"1.00", b"10", b"1.01")))
    hashes = [key for _, _, key, _ in found]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes)) == 3


def test_a_table_without_key_stays_in_one_lane(tmp_path: Path) -> None:
    """Nothing tells its rows but all of their values, which may be equal."""
    found = _one(
        tmp_path,
        e.insert(_BARE, _row(b"1", b"a")),
        e.update(_BARE, _row(b"2", b"b"), old=_row(b"1", b"a")),
        e.delete(_BARE, old=_row(b"2", b"b")),
    )
    assert [operation for operation, *_ in found] == [Operation.INSERT, Operation.UPDATE, Operation.DELETE]
    assert len({key for _, _, key, _ in found}) == 1


def test_barriers_keep_their_place(tmp_path: Path) -> None:
    """TRUNCATE for each table, marks of ours alone, and a changed shape before its first row."""
    wider = [*_columns(), e.Column(name="y")]
    (frame,) = _frames(
        tmp_path,
        [
            *_transaction(
                2,
                e.insert(_OID, _row(b"1", b"a")),
                e.truncate([_OID, _FULL], options=2),
                e.message("other", b"no"),
                e.message("dsync", b"yes"),
                e.relation(_OID, wider, name="t"),
                e.insert(_OID, _row(b"2", b"b", b"c")),
            )
        ],
    )
    found = [(operation, name) for operation, name, _, _ in _records(frame)]
    assert found == [
        (Operation.RESHAPE, "public.t"),
        (Operation.INSERT, "public.t"),
        (Operation.RESHAPE, "public.full"),
        (Operation.TRUNCATE, "public.t"),
        (Operation.TRUNCATE, "public.full"),
        (Operation.MARK, "public.t"),
        (Operation.RESHAPE, "public.t"),
        (Operation.INSERT, "public.t"),
    ]
    assert [len(relation.columns) for relation in frame.relations if relation.namespace == "public.t"] == [2, 3]
    # RESTART IDENTITY, as the server says it.
    assert {record for operation, _, _, record in _records(frame) if operation is Operation.TRUNCATE} == {b"\x02"}
    # Reshapes and marks have no number.
    assert frame.place == (200, 4)


def test_a_mark_alone_makes_a_frame_that_is_whole(tmp_path: Path) -> None:
    """Every change has an index of a relation of its frame, also one that concerns no table; it has no number."""
    (frame,) = _frames(tmp_path, _transaction(2, e.message("dsync", b"yes")))
    assert [(operation, name, record) for operation, name, _, record in _records(frame)] == [
        (Operation.MARK, "", b"yes")
    ]
    assert frame.place == (200, 0)
    assert Position.decode(frame.cursor).end_lsn == 210


def test_what_others_write_under_our_name_is_no_mark(tmp_path: Path) -> None:
    """A message outside of transactions has no place among the changes."""
    (frame,) = _frames(tmp_path, [e.message("dsync", b"no", flags=0), *_transaction(2, e.message("other", b"no"))])
    assert len(frame) == 0


def test_tables_that_are_not_wanted_have_no_place(tmp_path: Path) -> None:
    """An administrator's publication may have more of them."""
    messages = _transaction(2, e.insert(_OID, _row(b"1", b"a")), e.insert(_FULL, _row(b"1", b"a")))
    (frame,) = _frames(tmp_path, messages, namespaces=("public.full",))
    assert [(name, operation) for operation, name, *_ in _records(frame)] == [
        ("public.full", Operation.RESHAPE),
        ("public.full", Operation.INSERT),
    ]
    assert frame.place == (200, 1)


_HISTORY = [
    *_transaction(2, *(e.insert(_OID, _row(b"%d" % n, b"a")) for n in range(5))),
    *_transaction(3, e.update(_OID, _row(b"9", b"b"), old_key=_row(b"1", None)), e.truncate([_OID])),
    *_transaction(4),
    *_transaction(5, e.delete(_OID, old_key=_row(b"2", None)), e.insert(_FULL, _row(b"1", b"a"))),
]


@given(every=st.integers(1, 6), stop=st.integers(0, 12), again=st.integers(0, 6))
def test_a_stream_goes_on_after_any_frame_and_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, every: int, stop: int, again: int
) -> None:
    """Inside of a transaction too: every change once, at the same place, however the frames were cut before."""
    folder = tmp_path_factory.getbasetemp()
    whole = _changes(_frames(folder, _HISTORY))
    first = _frames(folder, _HISTORY, every=every)
    stop = min(stop, len(first) - 1)
    sent, cursor = first[: stop + 1], Position.decode(first[stop].cursor)

    # The server sends what has committed since, as a whole.
    left = [number for number in (2, 3, 4, 5) if 100 * number >= cursor.end_lsn]
    messages = [m for number in left for m in _parts()[number]]
    rest = _frames(folder, messages, position=cursor, every=again)

    assert _changes(sent) + _changes(rest) == whole
    assert rest[-1].place == first[-1].place
    # Where the same transaction goes on, the count goes on.
    if cursor.is_inside:
        first_with = next(frame for frame in rest if len(frame) or frame.commits)
        assert first_with.first_index == cursor.index
    ends = [commit.transaction for frame in [*sent, *rest] for commit in frame.commits]
    assert ends == [200, 300, 500]


def _parts() -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for message in _HISTORY:
        if message[:1] == b"B":
            number = struct.unpack_from(">Q", message, 1)[0] // 100
            found[number] = []
        found[number].append(message)
    return found


@given(data=st.binary(max_size=40))
def test_a_cursor_of_somebody_else_is_refused(data: bytes) -> None:
    """Whatever the bytes are, no position is made up of them."""
    try:
        position = Position.decode(data)
    except errors.RequestError:
        return
    assert Position.decode(position.encode()) == position
