"""Changes that a sink refuses: kept as dead letters, and healed by what comes later of the same records.

A record of which a change was refused is not at the sink what it is at the source. What sets some of its values alone
would be set on the wrong record, so it is read again at the source; whatever then gives the record whole, or removes
it, puts it right, and its letters wait no longer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from dsync.coordinator.events import DeadLetterAdded, EventHandler
from dsync.coordinator.journal import Journal
from dsync.coordinator.stream.lanes import unit_of
from dsync.coordinator.tolerance import Tolerance
from dsync.failpoints import failpoint
from dsync.protocol import frames
from dsync.protocol.errors import NamespaceChangedError, RecordError
from dsync.protocol.frames import Place
from dsync.protocol.page_codec import frame_pieces
from dsync.protocol.records import keys_of_record
from dsync.protocol.types import ChangeFrame, ChangeRelation, IncompleteChange, Operation, PageType
from dsync.state import DeadLetterRow, LetterRef

HEALED = "overtaken"
"""What a letter's resolution says then."""

Token = tuple[str, bytes]
"""Of a record: its namespace, and the hash of its key by which lanes are chosen, followed by a digest of the key.

Records that share the first may be others, since a source need not hash all of a key; those that share both are one.
"""

_NUMBER_BYTES = 8
_TOKEN_BYTES = 2 * _NUMBER_BYTES
_WHOLE = frozenset((Operation.INSERT, Operation.UPDATE, Operation.DELETE))
_LACKING = frozenset((Operation.PARTIAL_UPDATE, Operation.MOVE))


class Letters:
    """The dead letters of one stream. What must survive is in the store before `bury` returns."""

    def __init__(self, *, journal: Journal, emit: EventHandler, tolerance: Tolerance, lanes: int) -> None:
        self._journal = journal
        self._emit = emit
        self._tolerance = tolerance
        self._lanes = lanes
        self._waiting: dict[LetterRef, set[Token]] = {}
        """For each letter the records that are not yet as they should be."""
        self._of_hash: dict[Token, set[LetterRef]] = defaultdict(set)
        """By the first half of their tokens."""

    async def load(self) -> None:
        """Learn what earlier lives of the run have kept. Repeatable."""
        self._waiting.clear()
        self._of_hash.clear()
        for letter in await self._journal.refused_changes():
            self._note(letter)

    def _note(self, letter: LetterRef) -> None:
        tokens = _tokens_in(letter)
        if tokens:
            self._waiting[letter] = tokens
        for token in tokens:
            self._of_hash[_hash_of(token)].add(letter)

    async def bury(self, change: ChangeFrame, place: Place, error: RecordError) -> None:
        """Keep one change, durably. Repeatable: a change that is refused again is the same letter.

        Raises:
            NamespaceChangedError: its namespace, or the flow, has more than it may have; or it empties a table.
        """
        (relation,) = {change.relations[number] for number in frames.relation_numbers(change)}
        namespace = relation.namespace
        if change.operations[0] == Operation.TRUNCATE:
            raise NamespaceChangedError(
                f"{namespace}: it was emptied at the source, and the sink refuses that ({error}); mend the cause there "
                f"and run `dsync resync {self._journal.flow} --table {namespace}`"
            ).about(namespace)
        transaction, index = place
        tokens = b"".join(sorted(token for _, token in _tokens(change, 0)))
        row = DeadLetterRow(
            unit=unit_of(frames.lanes_of(change, self._lanes)[0]),
            namespace=namespace,
            # Where the change stands and whom it concerns, so that nothing has to be read to know a letter again.
            cursor_digest=transaction.to_bytes(_NUMBER_BYTES) + (b"" if _has_no_key(relation) else tokens),
            row_index=index,
            reason=str(error),
            error_class=type(error).__name__,
            payload=b"".join(map(bytes, frame_pieces(change))),
            page_type=PageType.UNKNOWN,
        )
        failpoint("coordinator.before_letter")
        letters = await self._journal.add_dead_letter(row)
        failpoint("coordinator.after_letter")
        self._emit(DeadLetterAdded(namespace=namespace, reason=str(error)))
        self._note(row.ref)
        if exceeded := self._tolerance.exceeded(namespace, letters):
            flow = self._journal.flow
            raise NamespaceChangedError(
                f"{namespace}: {exceeded}, the last one because: {error}; `dsync dead-letters list {flow}` lists them, "
                f"--dead-letters says how many may be, and `dsync resync {flow} --table {namespace}` follows it again "
                "once the cause is mended"
            ).about(namespace)

    def broken(self, changes: ChangeFrame) -> tuple[IncompleteChange, ...]:
        """Those that set some values alone of a record which may not be at the sink what it should be."""
        if not self._of_hash or _LACKING.isdisjoint(changes.operations):
            return ()
        return tuple(
            IncompleteChange(index=index, reason="an earlier change of its record was refused")
            for index, operation in enumerate(changes.operations)
            if operation in _LACKING and self._may_concern(changes, index)
        )

    def _may_concern(self, changes: ChangeFrame, index: int) -> bool:
        keys = frames.keys_of(changes, index)
        # Where it is not told which record has moved it may be any.
        return True if keys is None else not keys.isdisjoint(self._of_hash)

    def tokens(self, changes: ChangeFrame, indexes: Collection[int]) -> dict[Token, int]:
        """Which records these changes concern, each with the last change that does."""
        return {token: index for index in indexes for token in _tokens(changes, index)}

    async def healed(
        self,
        changes: ChangeFrame,
        restored: Mapping[Token, int],
        place_of: Callable[[int], Place] | None = None,
    ) -> None:
        """These changes are durable at the sink, and what was `restored` is there as it is at the source.

        With `place_of` some letters may be of changes that stand among these: what stands before does not heal them.
        """
        if not self._waiting:
            return
        hashes = {key for _, key in self._of_hash}
        whole = dict(restored)
        for index, operation in enumerate(changes.operations):
            key = changes.key_hashes[_NUMBER_BYTES * index : _NUMBER_BYTES * (index + 1)]
            if key in hashes and operation in _WHOLE:
                for token in _tokens(changes, index):
                    whole[token] = max(index, whole.get(token, 0))
        done = []
        for token, index in whole.items():
            for letter in self._of_hash.get(_hash_of(token), ()):
                if place_of is None or place_of(index) > _place_of(letter):
                    self._waiting[letter].discard(token)
                    if not self._waiting[letter] and letter not in done:
                        done.append(letter)
        if done:
            await self._journal.resolve_dead_letters(done, HEALED)
        for letter in done:
            self._forget(letter)

    async def copied_anew(self, namespaces: Collection[str]) -> None:
        """All records of these namespaces leave the sink, and come again from the source. Repeatable."""
        done = [letter for letter in await self._journal.refused_changes() if letter.namespace in namespaces]
        if done:
            await self._journal.resolve_dead_letters(done, HEALED)
        for letter in done:
            if letter in self._waiting:
                self._forget(letter)

    def _forget(self, letter: LetterRef) -> None:
        del self._waiting[letter]
        for token in _tokens_in(letter):
            key = _hash_of(token)
            self._of_hash[key].discard(letter)
            if not self._of_hash[key]:
                del self._of_hash[key]


def _tokens(changes: ChangeFrame, index: int) -> set[Token]:
    """Of the records that a change concerns; none where its record does not say."""
    namespace = changes.relations[frames.relation_numbers(changes)[index]].namespace
    new_hash = changes.key_hashes[_NUMBER_BYTES * index : _NUMBER_BYTES * (index + 1)]
    old_hash = frames.old_key_of(changes, index) or new_hash
    old, new = keys_of_record(changes, index)
    found = {(namespace, key_hash + _digest(key)) for key_hash, key in ((old_hash, old), (new_hash, new)) if key}
    return found if old and new else set()


def _tokens_in(letter: LetterRef) -> set[Token]:
    kept = letter.cursor_digest[_NUMBER_BYTES:]
    return {(letter.namespace, kept[start : start + _TOKEN_BYTES]) for start in range(0, len(kept), _TOKEN_BYTES)}


def _place_of(letter: LetterRef) -> Place:
    return int.from_bytes(letter.cursor_digest[:_NUMBER_BYTES]), letter.row_index


def _hash_of(token: Token) -> Token:
    return token[0], token[1][:_NUMBER_BYTES]


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_NUMBER_BYTES).digest()


def _has_no_key(relation: ChangeRelation) -> bool:
    """Its records are told apart by all of their values, so that one as good as another says nothing about it."""
    return relation.full_old_row and all(column.key_position for column in relation.columns)
