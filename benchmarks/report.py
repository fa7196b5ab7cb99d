"""Medians of interleaved rounds, as a table for people and as JSON for comparison with earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from benchmarks.measure import Cost

_GB = 1e9
_MB = 1e6
_MIB = 1024 * 1024
# With one long start-up and few rows the rest would be noise, and a rate made of it nonsense.
_SHARE_LEFT_MIN = 0.3


@dataclass(kw_only=True)
class Line:
    """One way of doing one piece of work, over all rounds."""

    work: str
    way: str
    rows: int
    size_bytes: int
    startups: list[Cost] = field(default_factory=list)
    """What the same command costs for nothing; empty: it has no start-up worth subtracting."""
    costs: list[Cost] = field(default_factory=list)
    problem: str = ""
    """Why there is no result."""

    @property
    def elapsed_s(self) -> float:
        return median(cost.elapsed_s for cost in self.costs)

    @property
    def startup_s(self) -> float:
        return median(cost.elapsed_s for cost in self.startups) if self.startups else 0.0

    def net_cpu_s(self, *, with_servers: bool) -> float:
        """CPU time without that of the start-up."""

        def of(cost: Cost) -> float:
            return cost.cpu_s + (cost.server_cpu_s if with_servers else 0.0)

        spent_s = median(map(of, self.costs))
        return max(0.0, spent_s - median(map(of, self.startups))) if self.startups else spent_s

    @property
    def net_s(self) -> float | None:
        """Without start-up; None where little would be left."""
        if not self.startups:
            return self.elapsed_s
        left_s = self.elapsed_s - self.startup_s
        return left_s if left_s > _SHARE_LEFT_MIN * self.elapsed_s else None


def markdown(lines: Sequence[Line], *, base: str) -> str:
    """One table for each piece of work."""
    parts = []
    for work in dict.fromkeys(line.work for line in lines):
        group = [line for line in lines if line.work == work]
        reference = next((line for line in group if line.way == base and line.costs), None)
        first = group[0]
        title = f"### {work}: {first.rows:,} rows, {first.size_bytes / _MB:,.0f} MB"
        parts += [title, "", *_table(group, reference), ""]
    return "\n".join(parts)


def _table(group: Sequence[Line], reference: Line | None) -> Iterable[str]:
    yield (
        "| way | seconds | spread | of it start-up | rows/s | MB/s | ratio | ratio without start-up "
        "| CPU s/GB, own | CPU s/GB, with servers | peak MiB |"
    )
    yield "| --- |" + " ---: |" * 10
    for line in group:
        if not line.costs:
            yield f"| {_cell(line.way)} | {_cell(line.problem) or 'not run'} |" + " |" * 9
            continue
        yield "| " + " | ".join(_cells(line, reference)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _cells(line: Line, reference: Line | None) -> list[str]:
    net_s = line.net_s
    rate_s = net_s if net_s is not None else line.elapsed_s
    giga = line.size_bytes / _GB
    own_s, all_s = line.net_cpu_s(with_servers=False), line.net_cpu_s(with_servers=True)
    times = [cost.elapsed_s for cost in line.costs]
    return [
        _cell(line.way),
        f"{line.elapsed_s:.2f}",
        f"{min(times):.2f}-{max(times):.2f}",
        f"{line.startup_s:.2f}" if line.startups else "",
        f"{line.rows / rate_s:,.0f}",
        f"{line.size_bytes / rate_s / _MB:,.0f}",
        f"{reference.elapsed_s / line.elapsed_s:.2f}" if reference else "",
        f"{reference.elapsed_s / net_s:.2f}" if reference and net_s is not None else "",
        f"{own_s / giga:.1f}",
        f"{all_s / giga:.1f}",
        f"{max(cost.peak_bytes for cost in line.costs) / _MIB:,.0f}",
    ]


def _figures(cost: Cost) -> dict[str, object]:
    return {name: value for name, value in asdict(cost).items() if name != "stdout"}


def as_json(lines: Sequence[Line]) -> list[dict[str, object]]:
    """Every sample, so that others can judge the medians."""
    return [
        {
            **asdict(line),
            "costs": [_figures(cost) for cost in line.costs],
            "startups": [_figures(cost) for cost in line.startups],
        }
        for line in lines
    ]
