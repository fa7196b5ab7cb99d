"""Transactions come out whole and in commit order, however they were sent."""

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from dsync_postgres.stream.decoder import MalformedMessageError
from dsync_postgres.stream.errors import SpillError
from dsync_postgres.stream.messages import Begin, Change, Commit, LogicalMessage, RelationNews
from dsync_postgres.stream.transactions import Event, Transactions, Watermark

from tests.unit.stream import encoding as e

_OID = 5
_COLUMNS = [e.Column(name="id", is_identity=True), e.Column(name="x")]


def _data(message: bytes) -> bytes:
    return b"w" + bytes(24) + message


def _alive(lsn: int) -> bytes:
    return b"k" + struct.pack(">Qq?", lsn, 0, False)


def _relation(*, xid: int | None = None, columns: list[e.Column] | None = None) -> bytes:
    return e.relation(_OID, columns or _COLUMNS, xid=xid)


def _insert(value: int, *, xid: int | None = None, width: int = 2) -> bytes:
    return e.insert(_OID, e.row([b"%d" % value] * width), xid=xid)


def _feed(transactions: Transactions, *messages: bytes) -> list[Event]:
    return list(transactions.feed([_data(m) if m[:1] != b"k" or len(m) != 18 else m for m in messages]))


def _words(events: list[Event]) -> list[str]:
    """What came out, in a word each."""
    return [_word(event) for event in events if not isinstance(event, RelationNews)]


def _word(event: Event) -> str:
    match event:
        case Begin(xid=xid):
            return f"begin {xid}"
        case Commit(end_lsn=end_lsn):
            return f"commit {end_lsn}"
        case Change(new=new):
            assert new is not None
            return (new.key[0] or b"").decode()
        case Watermark(lsn=lsn):
            return f"until {lsn}"
        case LogicalMessage(content=content):
            return f"mark {content.decode()}"
        case _:
            return type(event).__name__


def _part(xid: int, *messages: bytes, is_first: bool = False) -> tuple[bytes, ...]:
    return (e.stream_start(xid, is_first=is_first), *messages, e.STREAM_STOP)


def test_transactions_that_come_whole_are_handed_on(tmp_path: Path) -> None:
    """Begin, changes, Commit; a watermark between two, never inside of one."""
    found = _feed(
        Transactions(tmp_path),
        _alive(5),
        e.begin(commit_lsn=10, xid=1),
        _relation(),
        _insert(1),
        _alive(9),
        _insert(2),
        e.commit(commit_lsn=10, end_lsn=11),
        _alive(12),
        e.message("dsync", b"m", flags=0),
    )
    assert _words(found) == ["until 5", "begin 1", "1", "2", "commit 11", "until 12", "mark m"]


def test_parts_wait_for_their_commit_and_come_out_in_commit_order(tmp_path: Path) -> None:
    """Two large transactions in turns, a small one in between: nothing before its commit, each as a whole."""
    transactions = Transactions(tmp_path)
    before = _feed(
        transactions,
        *_part(7, _relation(xid=7), _insert(70, xid=7), is_first=True),
        *_part(8, _relation(xid=8), _insert(80, xid=8), is_first=True),
        *_part(7, _insert(71, xid=7)),
        e.begin(commit_lsn=20, xid=9),
        _relation(),
        _insert(90),
        e.commit(commit_lsn=20, end_lsn=21),
    )
    assert _words(before) == ["begin 9", "90", "commit 21"]
    assert transactions.spilled_bytes > 0
    after = _feed(
        transactions,
        e.stream_commit(8, commit_lsn=30, end_lsn=31),
        e.stream_commit(7, commit_lsn=40, end_lsn=41),
    )
    assert _words(after) == ["begin 8", "80", "commit 31", "begin 7", "70", "71", "commit 41"]
    assert list(tmp_path.iterdir()) == []


def test_what_was_rolled_back_after_it_was_sent_never_comes_out(tmp_path: Path) -> None:
    """A whole transaction, and subtransactions of one that commits (savepoints)."""
    transactions = Transactions(tmp_path)
    found = _feed(
        transactions,
        *_part(7, _relation(xid=7), _insert(1, xid=7), _insert(2, xid=71), _insert(3, xid=72), is_first=True),
        *_part(8, _relation(xid=8), _insert(80, xid=8), is_first=True),
        e.stream_abort(7, 71),
        e.stream_abort(8, 8),
        *_part(7, _insert(4, xid=73), _insert(5, xid=7)),
        e.stream_abort(7, 73),
        e.stream_abort(99, 99),
        e.stream_commit(7, commit_lsn=40, end_lsn=41),
    )
    assert _words(found) == ["begin 7", "1", "3", "5", "commit 41"]
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_read_as_it_was_described_for_each(tmp_path: Path) -> None:
    """A large transaction's rows by its own description, those after by the newest; one rolled back counts for none."""
    wider = [*_COLUMNS, e.Column(name="y")]
    transactions = Transactions(tmp_path)
    found = _feed(
        transactions,
        # The description of 7 comes before the one of 9, and is applied after it.
        *_part(7, _relation(xid=7), _insert(70, xid=7), is_first=True),
        e.begin(commit_lsn=20, xid=9),
        _relation(columns=wider),
        _insert(90, width=3),
        e.commit(commit_lsn=20, end_lsn=21),
        e.stream_commit(7, commit_lsn=30, end_lsn=31),
        e.begin(commit_lsn=40, xid=10),
        _insert(100, width=3),
        e.commit(commit_lsn=40, end_lsn=41),
        # A subtransaction's, rolled back, and then the transaction's own, which everybody knows from its commit on.
        *_part(8, _relation(xid=81, columns=wider[:1]), _insert(81, xid=81, width=1), is_first=True),
        e.stream_abort(8, 81),
        *_part(8, _relation(xid=8), _insert(80, xid=8)),
        e.stream_commit(8, commit_lsn=50, end_lsn=51),
        e.begin(commit_lsn=60, xid=11),
        _insert(110),
        e.commit(commit_lsn=60, end_lsn=61),
    )
    rows = {event.new.key[0]: len(event.relation.columns) for event in found if isinstance(event, Change) and event.new}
    assert rows == {b"90": 3, b"70": 2, b"100": 3, b"80": 2, b"110": 2}


def test_a_large_transaction_takes_no_memory(tmp_path: Path) -> None:
    """Neither on the way to the disk nor back: it may be larger than everything."""
    transactions = Transactions(tmp_path)
    row = e.row([b"1", b"x" * 1000])

    def parts() -> Iterator[bytes]:
        yield _data(e.stream_start(7))
        yield _data(_relation(xid=7))
        for number in range(30_000):
            if number % 500 == 0:
                yield from map(_data, (e.STREAM_STOP, e.stream_start(7, is_first=False)))
            yield _data(e.insert(_OID, row, xid=7))
        yield _data(e.STREAM_STOP)
        yield _data(e.stream_commit(7, commit_lsn=1, end_lsn=2))

    tracemalloc.start()
    count = sum(isinstance(event, Change) for event in transactions.feed(parts()))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30_000
    assert peak_bytes < 3 * 1024 * 1024


def test_a_damaged_file_is_an_error_and_never_a_wrong_row(tmp_path: Path) -> None:
    """Each byte changed or the end cut off: the stream begins again, nothing of the block comes out."""
    for damage in ("flip", "cut", "gone"):
        transactions = Transactions(tmp_path)
        _feed(transactions, *_part(7, _relation(xid=7), _insert(70, xid=7), is_first=True))
        (file,) = tmp_path.iterdir()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(content if damage == "flip" else content[:-1])
        found: list[Event] = []
        with pytest.raises(SpillError):
            found += transactions.feed([_data(e.stream_commit(7, commit_lsn=1, end_lsn=2))])
        assert not any(isinstance(event, Change | Commit) for event in found)
        transactions.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_worth_a_retry(tmp_path: Path) -> None:
    """It says where, and the folder that is not there stands for the disk that takes no more."""
    with pytest.raises(SpillError, match="free space"):
        _feed(Transactions(tmp_path / "gone"), *_part(7, _relation(xid=7), _insert(70, xid=7), is_first=True))


@pytest.mark.parametrize(
    "messages",
    [[e.STREAM_STOP], [e.stream_commit(7, commit_lsn=1, end_lsn=2)], [e.insert(_OID, e.row([b"1", b"1"]))]],
    ids=["stop", "commit", "undescribed"],
)
def test_what_makes_no_sense_is_an_error(tmp_path: Path, messages: list[bytes]) -> None:
    """A part that has not begun, a transaction of which nothing came, a table nobody described."""
    with pytest.raises(MalformedMessageError):
        _feed(Transactions(tmp_path), *messages)
