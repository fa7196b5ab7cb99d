"""Each check is shown to fail, against a connector that lies in that way; the honest one passes (`test_honest`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dsync.conformance import CHECKS, Outcome, examine, render
from dsync.protocol.page_store import PageStore
from dsync.sdk.types import Info
from tests.contract.conformance.honest import CANARY, Honest, examined, quick
from tests.contract.conformance.lies import LIES


def test_every_check_has_its_liar() -> None:
    """A check that nobody has seen fail proves nothing."""
    assert set(LIES) == set(CHECKS)


@pytest.mark.parametrize("check", list(CHECKS))
async def test_a_lie_is_found(check: str, tmp_path: Path) -> None:
    """By its own check, in words that show no record."""
    only = frozenset({check})
    if check.startswith("page.reference"):
        tmp_path.chmod(0o700)
        # Without the guard that keeps references from being used inside of one process.
        report = await examine(LIES[check](), quick(only=only, pages=PageStore(tmp_path)))
    else:
        report = await examined(LIES[check](), only=only, wait_s=0.2)
    (result,) = report.results
    assert result.outcome is Outcome.FAILED, f"{result.outcome}: {result.note}"
    assert result.expected
    assert result.seen
    broken = "unexpected" in result.seen or ".py:" in result.seen
    assert not broken, "a liar of the test's own that is broken proves nothing"
    assert report.exit_code == 4
    assert CANARY not in str(report.as_json())
    text = render(report)
    assert all(part in text for part in (check, result.expected, result.seen, result.check.why, result.check.stands_on))


async def test_a_mongodb_that_tells_numbers_apart_is_found() -> None:
    """1 and 1.0 are one id there; to others they may be two."""

    class Mongo(Honest):
        async def get_info(self) -> Info:
            return dataclasses.replace(await super().get_info(), db_type="MongoDB")

    (result,) = (await examined(Mongo(), only=frozenset({"ids.numbers"}))).results
    assert result.expected == "one record: MongoDB compares numbers by their value"
    (result,) = (await examined(Honest(), only=frozenset({"ids.numbers"}))).results
    assert result.note == "each type of number is an id of its own"
