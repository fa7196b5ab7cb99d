"""What a run cost is counted over all its processes, and a way that fails has no figures."""

from __future__ import annotations

import sys

import pytest

from benchmarks import measure, report
from benchmarks.measure import CommandFailedError, Cost
from benchmarks.report import Line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")

_MIB = 1024 * 1024
_PARENT = """
import subprocess, sys
held = bytearray(b"x") * (60 << 20)
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print(len(held))
"""
_CHILD = """
import time
held = bytearray(b"x") * (40 << 20)
seen = 0
while time.process_time() < 0.4:
    seen += 1
"""


def test_time_and_memory_of_children_count() -> None:
    """The sum over the tree: 60 MiB here and 40 MiB there are at least 100."""
    cost = measure.run([[sys.executable, "-c", _PARENT, _CHILD]])
    assert cost.stdout.strip() == str(60 * _MIB)
    assert cost.cpu_s >= 0.4
    assert cost.machine_cpu_s >= 0.3
    assert 100 * _MIB <= cost.peak_bytes < 200 * _MIB
    assert cost.elapsed_s >= 0.4


def test_a_pipeline_is_one_run() -> None:
    """As a shell runs it: what one writes the next one reads."""
    script = "import sys; sys.stdout.write(sys.stdin.read().upper())"
    cost = measure.run([[sys.executable, "-c", "print('text')"], [sys.executable, "-c", script]])
    assert cost.stdout == "TEXT\n"


def test_a_failure_anywhere_in_a_pipeline_is_one() -> None:
    """A copy that lost its first half is not a quick copy."""
    with pytest.raises(CommandFailedError, match=r"\[3, 0\]"):
        measure.run([[sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", "pass"]])


def _cost(elapsed_s: float, cpu_s: float = 1.0) -> Cost:
    return Cost(elapsed_s=elapsed_s, cpu_s=cpu_s, server_cpu_s=1.0, machine_cpu_s=9.0, peak_bytes=_MIB)


def test_the_table_has_ratios_of_medians_and_tells_start_up_apart() -> None:
    """Twice the base's time is 0.50; without a second of start-up it is less bad."""
    base = Line(work="w", way="base", rows=10, size_bytes=10**9, costs=[_cost(1.0), _cost(2.0), _cost(9.0)])
    ours = Line(
        work="w", way="a | b", rows=10, size_bytes=10**9, costs=[_cost(4.0, 3.0)] * 3, startups=[_cost(1.5, 1.0)]
    )
    failed = Line(work="w", way="c", rows=10, size_bytes=10**9, problem="server down")
    text = report.markdown([base, ours, failed], base="base")
    rows = [[cell.strip() for cell in line.replace("\\|", "!").split("|")] for line in text.splitlines()]
    ours_row = next(row for row in rows if len(row) > 1 and row[1] == "a ! b")
    assert ours_row[2:10] == ["4.00", "4.00-4.00", "1.50", "4", "400", "0.50", "0.80", "2.0"]
    assert "server down" in text


def test_little_work_behind_a_long_start_up_gives_no_rate_of_its_own() -> None:
    """The difference of two noisy numbers is no measurement."""
    line = Line(work="w", way="a", rows=10, size_bytes=100, costs=[_cost(1.2)], startups=[_cost(1.0)])
    assert line.net_s is None
    assert Line(work="w", way="a", rows=1, size_bytes=1, costs=[_cost(2.0)], startups=[_cost(1.0)]).net_s == 1.0
