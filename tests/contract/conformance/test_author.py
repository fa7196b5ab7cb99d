"""What an author of a connector writes, and what it leads to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dsync.conformance import ExamineOptions, Outcome
from dsync.conformance.catalogue import catalogue
from dsync.sdk import Connector
from dsync.sdk.testing import Conformance
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.types import BsonValue, PageType
from tests.contract.conformance.honest import NAMESPACES, SCRATCH, Honest, orders

_QUICK = ExamineOptions(wait_s=5, pause_s=0.1, check_s=60, only=frozenset({"lookup", "plan.one"}))


class _Sorting(Honest):
    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        return sorted(await super().get_by_ids(namespace, ids, page_type))


class _Author(Conformance):
    namespaces = NAMESPACES
    scratch = SCRATCH
    limits = _QUICK
    made: type[Honest] = Honest

    @asynccontextmanager
    async def connector(self, folder: Path) -> AsyncIterator[Connector]:
        yield self.made()


def _outcome(kit: type[Conformance], check: str) -> tuple[str, str]:
    """How the test of a check ends, and what it says."""
    try:
        kit().test_conformance(check, "inline")
    except (AssertionError, pytest.skip.Exception, pytest.xfail.Exception) as ended:
        return type(ended).__name__, str(ended)
    return "passed", ""


def test_a_check_is_a_test() -> None:
    """It passes, is skipped with the reason, or says what was expected and seen."""

    class Sorting(_Author):
        made = _Sorting

    assert _outcome(_Author, "lookup.order") == ("passed", "")
    assert _outcome(_Author, "lookup.undeclared") == ("Skipped", "it declares get_by_ids")
    kind, said = _outcome(Sorting, "lookup.order")
    assert kind == "AssertionError"
    assert "expected   the record int64" in said
    assert "stands on  adiom.v1 GetByIds: in the order asked" in said


def test_a_known_gap_has_to_fail() -> None:
    """Whoever closes it is told to take it out of the list."""

    class Known(_Author):
        made = _Sorting
        gaps = {"lookup.order": "issue 12"}  # noqa: RUF012 - as an author writes it

    class Closed(_Author):
        gaps = {"lookup.order": "issue 12"}  # noqa: RUF012

    assert _outcome(Known, "lookup.order") == ("XFailed", "issue 12")
    kind, said = _outcome(Closed, "lookup.order")
    assert kind == "AssertionError"
    assert "take it out of `gaps`" in said


def test_changes_and_a_reader_of_the_authors_own_are_used(tmp_path: Path) -> None:
    """A source that is no sink is changed by its driver, a sink that is no source is read by another connector."""
    made: list[Honest] = []

    class Driven(_Author):
        limits = ExamineOptions(wait_s=5, pause_s=0.1, check_s=60, only=frozenset({"stream", "write"}))

        @asynccontextmanager
        async def connector(self, folder: Path) -> AsyncIterator[Connector]:
            made.append(Honest())
            yield made[0]

        @asynccontextmanager
        async def reader(self, folder: Path) -> AsyncIterator[Connector]:
            yield MemoryConnector(made[0].store, endpoint_id="reader")

        async def change(self, number: int) -> None:
            await made[0].write_updates(orders(number))

    report = _run(Driven, tmp_path)
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    assert {result.check.id for result in report.of(Outcome.SKIPPED)} == {"stream.deletes"}
    assert any(namespace == NAMESPACES[0] for namespace, _ in made[0].log)


def test_the_manuals_class_passes(tmp_path: Path) -> None:
    """Pasted as it stands."""
    block = catalogue().split("```python\n")[1].split("```")[0]
    made: dict[str, Any] = {}
    exec(compile(block, "docs/conformance.md", "exec"), made)
    report = _run(made["TestMyConnector"], tmp_path)
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    assert len(report.of(Outcome.PASSED)) > 50


def _run(kit: type[Conformance], folder: Path) -> Any:
    return asyncio.run(kit()._examined("inline", folder))
