"""How many refused records are borne before a namespace stops: more than that is no accident of single records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dsync.protocol.errors import RequestError
from dsync.protocol.namespaces import Pattern

OF_A_NAMESPACE = 1000
"""Where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What `--dead-letters` says: `N` for the whole flow, `NS=N` for each namespace that the pattern fits."""

    of_flow: int | None = None
    """None: only namespaces have a limit."""
    of_namespaces: tuple[tuple[Pattern, int], ...] = ()
    """The last one that fits counts."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Tolerance:
        """Raises RequestError where one cannot be read."""
        of_flow: int | None = None
        of_namespaces = []
        for text in texts:
            pattern, _, number = text.rpartition("=")
            if not number.isascii() or not number.isdecimal():
                raise RequestError(
                    f"dead letters {text!r}: write a number for the whole flow, or NS=N for namespaces, as in"
                    " 100 or shop.orders=0"
                )
            if pattern:
                of_namespaces.append((_pattern(pattern), int(number)))
            else:
                of_flow = int(number)
        return cls(of_flow=of_flow, of_namespaces=tuple(of_namespaces))

    def of(self, namespace: str) -> int:
        """How many the namespace may have."""
        fitting = [limit for pattern, limit in self.of_namespaces if pattern.matches(namespace)]
        return fitting[-1] if fitting else OF_A_NAMESPACE

    def exceeded(self, namespace: str, letters: Mapping[str, int]) -> str:
        """Which limit these numbers of dead letters, by namespace, are over; empty where none is."""
        own, every = letters.get(namespace, 0), sum(letters.values())
        if own > self.of(namespace):
            return f"the sink has refused {own:,} of its records, more than the {self.of(namespace):,} allowed"
        if self.of_flow is not None and every > self.of_flow:
            return f"the sink has refused {every:,} records of the flow, more than the {self.of_flow:,} allowed"
        return ""


def _pattern(text: str) -> Pattern:
    pattern = Pattern(text)
    if pattern.target:
        raise RequestError(f"dead letters {text!r}: a namespace's name at the sink does not belong here")
    return pattern
