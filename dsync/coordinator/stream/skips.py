"""Changes that are left out: of namespaces that have stopped, and those that a namespace's rows were read with."""

from __future__ import annotations

from collections.abc import Mapping

from dsync.protocol import frames
from dsync.protocol.types import ChangeFrame

ALL = 2**64 - 1
"""As a transaction: every one."""


class Skips:
    """For each namespace the last transaction that is left out."""

    def __init__(self) -> None:
        self._through: dict[str, int] = {}

    def leave_out(self, through: Mapping[str, int]) -> None:
        """What was read has these namespaces' changes up to there. Repeatable; what has stopped stays so."""
        for namespace, transaction in through.items():
            self._through[namespace] = max(transaction, self._through.get(namespace, 0))

    def stop(self, namespace: str) -> None:
        """None of its changes is applied from now on. Repeatable."""
        self._through[namespace] = ALL

    def has_stopped(self, namespace: str) -> bool:
        """All of its changes are left out."""
        return self._through.get(namespace) == ALL

    def of(self, frame: ChangeFrame) -> frozenset[int]:
        """Which of a frame's changes, as the source gave it, are left out."""
        bounds = {
            number: self._through[relation.namespace]
            for number, relation in enumerate(frame.relations)
            if relation.namespace in self._through
        }
        if not bounds:
            return frozenset()
        numbers = frames.relation_numbers(frame)
        return frozenset(
            index
            for stretch in frames.stretches(frame)
            for index in range(stretch.start, stretch.end)
            if stretch.transaction <= bounds.get(numbers[index], -1)
        )

    def without_stopped(self, frame: ChangeFrame) -> ChangeFrame:
        """The changes that were picked, but for those of namespaces that have stopped since."""
        stopped = {n for n, relation in enumerate(frame.relations) if self.has_stopped(relation.namespace)}
        numbers = frames.relation_numbers(frame)
        return frames.pick(frame, [index for index in range(len(frame)) if numbers[index] not in stopped])
