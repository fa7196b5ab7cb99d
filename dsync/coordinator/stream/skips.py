"""Changes that are left out: of namespaces that have stopped, and those that a namespace's rows were read with."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dsync.protocol import frames
from dsync.protocol.frames import Place
from dsync.protocol.types import ChangeFrame

_END = 2**64 - 1
"""Of a transaction: after all of its changes."""
ALL: Place = (_END, _END)
"""After every change."""


def after_all_of(transaction: int) -> Place:
    """Behind every change of a transaction, and before the next one's."""
    return transaction, _END


class Skips:
    """For each namespace the place up to which its changes are left out."""

    def __init__(self, *, only: Collection[str] | None = None) -> None:
        """`only` these namespaces have changes that are not left out; None: all of them."""
        self._through: dict[str, Place] = {}
        self._only = None if only is None else frozenset(only)

    def leave_out(self, through: Mapping[str, int]) -> None:
        """What was read has these namespaces' transactions up to there. Repeatable; what has stopped stays so."""
        for namespace, transaction in through.items():
            self._through[namespace] = max(after_all_of(transaction), self._through.get(namespace, frames.START))

    def stop(self, namespace: str) -> None:
        """None of its changes is applied from now on. Repeatable."""
        self._through[namespace] = ALL

    def go_on_after(self, namespace: str, place: Place) -> None:
        """The sink has its changes up to there, also where it had stopped: those after it are applied. Repeatable."""
        self._through[namespace] = place

    def has_stopped(self, namespace: str) -> bool:
        """All of its changes are left out."""
        return self._through.get(namespace) == ALL

    def of(self, frame: ChangeFrame) -> frozenset[int]:
        """Which of a frame's changes, as the source gave it, are left out."""
        counts = {
            number: count
            for number, relation in enumerate(frame.relations)
            if (count := self._left_out(frame, relation.namespace))
        }
        if not counts:
            return frozenset()
        numbers = frames.relation_numbers(frame)
        return frozenset(index for index in range(len(frame)) if index < counts.get(numbers[index], 0))

    def _left_out(self, frame: ChangeFrame, namespace: str) -> int:
        """How many of the frame's changes, from its first one on, are left out where they are this namespace's."""
        if self._only is not None and namespace not in self._only:
            return len(frame)
        place = self._through.get(namespace)
        return 0 if place is None else frames.count_through(frame, place)

    def without_stopped(self, frame: ChangeFrame) -> ChangeFrame:
        """The changes that were picked, but for those of namespaces that have stopped since."""
        stopped = {n for n, relation in enumerate(frame.relations) if self.has_stopped(relation.namespace)}
        numbers = frames.relation_numbers(frame)
        return frames.pick(frame, [index for index in range(len(frame)) if numbers[index] not in stopped])
