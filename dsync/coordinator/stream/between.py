"""Marks that somebody waits for while changes are applied, and which namespaces are written to after one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from dsync.coordinator.stream.rounds import Round
from dsync.protocol import frames
from dsync.protocol.types import Operation

_NO_CHANGES = frozenset({Operation.MARK, Operation.RESHAPE})


@dataclass(slots=True, kw_only=True)
class Between:
    """Told of each round once it is durable. Costs nothing while nobody waits and nothing is counted."""

    written: Counter[str] = field(default_factory=Counter, init=False)
    """Changes by source namespace since the mark after which they count."""
    _awaited: dict[bytes, asyncio.Event] = field(default_factory=dict, init=False)
    _counts_after: bytes = field(default=b"", init=False)
    _is_counting: bool = field(default=False, init=False)

    def expect(self, content: bytes, *, counts_after: bool = False) -> asyncio.Event:
        """What is set once the mark has passed; to be called before it is written."""
        self._awaited[content] = passed = asyncio.Event()
        if counts_after:
            self.written.clear()
            self._counts_after, self._is_counting = content, False
        return passed

    def saw(self, found: Round) -> None:
        """Everything up to the round's end is applied."""
        if not self._awaited and not self._is_counting:
            return
        for part in found.parts:
            operations = part.frame.operations[part.start : part.end]
            if self._is_counting or Operation.MARK in operations:
                numbers = frames.relation_numbers(part.frame)
                for index, operation in enumerate(operations, part.start):
                    if operation == Operation.MARK:
                        self._pass(bytes(frames.cut(part.frame, index, index + 1).body))
                    elif self._is_counting and operation not in _NO_CHANGES:
                        self.written[part.frame.relations[numbers[index]].namespace] += 1

    def _pass(self, content: bytes) -> None:
        if content == self._counts_after:
            self._is_counting = True
        passed = self._awaited.pop(content, None)
        if passed is not None:
            passed.set()
