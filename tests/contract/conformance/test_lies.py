"""Each check is shown to fail, against a connector that lies in that way; the honest one passes (`test_honest`)."""

from __future__ import annotations

import pytest

from dsync.conformance import CHECKS, Outcome, render
from tests.contract.conformance.honest import CANARY, examined
from tests.contract.conformance.lies import LIES


def test_every_check_has_its_liar() -> None:
    """A check that nobody has seen fail proves nothing."""
    assert set(LIES) == set(CHECKS)


@pytest.mark.parametrize("check", list(CHECKS))
async def test_a_lie_is_found(check: str) -> None:
    """By its own check, in words that show no record."""
    report = await examined(LIES[check](), only=frozenset({check}), wait_s=0.2)
    (result,) = report.results
    assert result.outcome is Outcome.FAILED, f"{result.outcome}: {result.note}"
    assert result.expected
    assert result.seen
    assert "unexpected" not in result.seen, "a liar of the test's own that is broken proves nothing"
    assert report.exit_code == 4
    assert CANARY not in str(report.as_json())
    text = render(report)
    assert all(part in text for part in (check, result.expected, result.seen, result.check.why, result.check.stands_on))
