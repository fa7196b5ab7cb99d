"""What was read again is ahead of the stream until the stream has come there, and nothing else is."""

from __future__ import annotations

from dsync.coordinator.stream.ahead import FOR_EVER, Ahead
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
    assert not Ahead(all_until=0).overlaps(change(Operation.UPDATE, 9), 1)


def test_while_pages_overlap_everything_may_be() -> None:
    assert Ahead(all_until=FOR_EVER).overlaps(change(Operation.MOVE, 1, old=2), 10**18)


def test_whoever_goes_on_takes_everything_for_ahead_until_the_last_record_that_was_read_again() -> None:
    ahead = Ahead(all_until=50)
    assert ahead.overlaps(change(Operation.MOVE, 1, old=2), 50)
    assert not ahead.overlaps(change(Operation.MOVE, 1, old=2), 51)


def test_a_record_that_was_read_again_is_ahead_until_there() -> None:
    ahead = Ahead(all_until=0)
    ahead.add(change(Operation.MOVE, 1, old=2), 0, 50)
    assert ahead.position == 50
    assert ahead.overlaps(change(Operation.UPDATE, 9), 50), (
        "what is no lone move is written by key, whatever its key is"
    )
    assert not ahead.overlaps(change(Operation.UPDATE, 1), 51)


def test_a_move_is_exact_unless_either_of_its_keys_is_ahead() -> None:
    """Equal keys of other namespaces are other keys; a source that does not tell the old key leaves it in doubt."""
    ahead = Ahead(all_until=FOR_EVER)
    ahead.add(change(Operation.MOVE, 1, old=2), 0, 50)
    ahead.rest_is_exact()
    assert ahead.overlaps(change(Operation.MOVE, 1, old=9), 40)
    assert ahead.overlaps(change(Operation.MOVE, 9, old=2), 40)
    assert not ahead.overlaps(change(Operation.MOVE, 9, old=2), 51)
    assert not ahead.overlaps(change(Operation.MOVE, 8, old=9), 40)
    assert not ahead.overlaps(change(Operation.MOVE, 1, old=2, namespace="b"), 40)
    assert ahead.overlaps(change(Operation.MOVE, 8), 40)
