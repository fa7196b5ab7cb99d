"""What was read again is ahead of the stream until the stream has come there, and nothing else is."""

from __future__ import annotations

from dsync.coordinator.stream.ahead import Ahead
from dsync.protocol.types import ChangeFrame, ChangeRelation, ChangeType, Operation


def change(operation: Operation, key: int, *, old: int | None = None, namespace: str = "a") -> ChangeFrame:
    return ChangeFrame(
        type=ChangeType.BSON,
        cursor=b"",
        transaction=0,
        relations=(ChangeRelation(namespace=namespace),),
        operations=bytes([operation]),
        relation_of=bytes(2),
        key_hashes=key.to_bytes(8, "little"),
        sizes=bytes(4),
        moved_from=b"" if old is None else old.to_bytes(8, "little"),
    )


def test_after_an_exact_copy_nothing_is_ahead() -> None:
    assert not Ahead().reaches(1)


def test_while_pages_overlap_everything_may_be() -> None:
    ahead = Ahead(rest_is_exact=False)
    assert ahead.reaches(10**9)
    assert not ahead.is_exact(change(Operation.MOVE, 1, old=2), 10**9)


def test_a_record_that_was_read_again_is_ahead_until_there() -> None:
    ahead = Ahead()
    ahead.add(change(Operation.MOVE, 1, old=2), 0, 50)
    assert ahead.position == 50
    assert ahead.reaches(50)
    assert not ahead.reaches(51)


def test_a_move_is_exact_unless_either_of_its_keys_is_ahead() -> None:
    """Equal keys of other namespaces are other keys; a source that does not tell the old key leaves it in doubt."""
    ahead = Ahead(rest_is_exact=False)
    ahead.add(change(Operation.MOVE, 1, old=2), 0, 50)
    ahead.rest_is_exact()
    assert not ahead.is_exact(change(Operation.MOVE, 1, old=9), 40)
    assert not ahead.is_exact(change(Operation.MOVE, 9, old=2), 40)
    assert ahead.is_exact(change(Operation.MOVE, 9, old=2), 51)
    assert ahead.is_exact(change(Operation.MOVE, 8, old=9), 40)
    assert ahead.is_exact(change(Operation.MOVE, 1, old=2, namespace="b"), 40)
    assert not ahead.is_exact(change(Operation.MOVE, 8), 40)


def test_what_is_no_move_is_written_by_key() -> None:
    assert not Ahead().is_exact(change(Operation.UPDATE, 9), 1)
