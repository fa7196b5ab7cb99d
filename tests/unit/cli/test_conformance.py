"""`dsync conformance` as a command: what it takes, prints and ends with."""

from __future__ import annotations

import pytest

from dsync.conformance import CHECKS
from tests.unit.cli.running import run_here

_FAULTY = "random://?documents=20&fault=count@*:ConflictError"


def test_a_connector_that_keeps_its_promises_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """What it declares, what passed, and what was not tried, with the reason."""
    printed = run_here(capsys, "conformance", "random://?documents=20", "--attach", "inline", "--only", "plan")

    assert printed.exit_code == 0
    assert "source  BSON, multi_namespace_plan, default_plan, get_by_ids" in printed.stdout
    assert f"  plan.one  {CHECKS['plan.one'].what}" in printed.stdout
    assert "only one namespace is known: name two" in printed.stdout
    assert printed.stdout.splitlines()[-1] == "random://?documents=20: 4 passed, 0 failed, 1 not tried"


def test_a_failed_check_ends_with_4_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for programs: which promise, what was expected and seen, why it matters."""
    for_people = run_here(capsys, "conformance", _FAULTY, "--attach", "inline", "--only", "plan.counts")
    for_scripts = run_here(capsys, "conformance", _FAULTY, "--attach", "inline", "--only", "plan.counts", "--json")

    assert (for_people.exit_code, for_scripts.exit_code) == (4, 4)
    seen = "GetNamespaceMetadata was answered with ABORTED (ConflictError)"
    check = CHECKS["plan.counts"]
    assert all(part in for_people.stdout for part in (check.what, check.why, check.stands_on, seen))
    assert for_scripts.json["error"] == {"class": None, "message": "1 check failed", "exit_code": 4}
    result = for_scripts.json["result"]
    assert (result["passed"], result["failed"], result["skipped"]) == (0, 1, 0)
    assert result["declares"]["db_type"] == "random"
    assert (result["checks"][0]["id"], result["checks"][0]["seen"]) == ("plan.counts", seen)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("random://", "--only", "pages.nosuch"), "there is no check pages.nosuch"),
        (
            ("random://", "-n", "nosuch", "--attach", "inline"),
            "nosuch: GeneratePlan was answered with INVALID",
        ),
        (("nosuch://a",), "no connector for nosuch://"),
        (("grpc://10.0.0.1:7000",), "plaintext is for this machine alone"),
        (("somewhere",), "is no endpoint"),
        ((), "Missing argument 'ADDR|URI'"),
    ],
)
def test_a_wrong_request_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    """And not with a report that blames the connector."""
    printed = run_here(capsys, "conformance", *arguments)

    assert printed.exit_code == 2
    assert said in printed.stderr
