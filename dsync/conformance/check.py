"""A check: one promise of the protocol, how it is tried, and what a connector that breaks it costs its users."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dsync.conformance.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something without which a check makes no sense."""

    words: str
    """For the page that lists the checks: "a source", "GetByIds declared"."""
    missing: Callable[[Subject], Awaitable[str]]
    """Why the check cannot be tried; empty: it can."""


Run = Callable[[Subject], Awaitable[str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise; `run` returns a remark or nothing where it is kept."""

    id: str
    """Stable, GROUP.NAME: for reports, for `--only` and for an author's list of known gaps."""
    what: str
    """What is done, in one line."""
    why: str
    """What a broken promise leads to."""
    stands_on: str
    """The part of the protocol it is taken from."""
    needs: tuple[Need, ...]
    run: Run

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]


GROUPS = {
    "info": "Who it is",
    "plan": "Plans",
    "pages": "Pages",
    "lookup": "Records by id",
    "stream": "Changes",
    "lsn": "Positions",
    "write": "Writing records",
    "updates": "Writing changes",
    "ids": "Ids",
    "page": "dsync.v1: pages",
    "ledger": "dsync.v1: the ledger",
    "snapshot": "dsync.v1: plans",
    "changes": "dsync.v1: changes",
    "schema": "dsync.v1: schema",
    "checksum": "dsync.v1: checksums",
}
"""The groups of checks, in the order in which they are tried."""

registered: dict[str, Check] = {}
"""Every check by its id; filled by the modules of `dsync.conformance.checks`, which see to their order."""


def check(id: str, *needs: Need, stands_on: str) -> Callable[[Run], Run]:
    """Make a check of a function: the first line of its docstring says what is done, the rest of it why."""

    def register(run: Run) -> Run:
        what, _, why = inspect.cleandoc(run.__doc__ or "").partition("\n\n")
        assert what, f"{id} says what it does"
        assert why, f"{id} says why"
        assert id not in registered, f"{id} is one check"
        assert id.partition(".")[0] in GROUPS, f"{id} belongs to a group"
        registered[id] = Check(
            id=id,
            what=" ".join(what.split()),
            why=" ".join(why.split()),
            stands_on=stands_on,
            needs=needs,
            run=run,
        )
        return run

    return register
