"""Measure dsync side by side with what PostgreSQL brings for copying and following, and the coordinator alone.

`python -m benchmarks.run --quick` takes two minutes; without it, about half an hour. What is timed, and what is not,
is in docs/benchmarks.md. It never fails for being slow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import codec, machine, report, stream
from benchmarks.codec import Speed
from benchmarks.measure import CommandFailedError
from benchmarks.report import Line
from benchmarks.stream import Figures
from benchmarks.tables import SETTINGS, Servers, Table, make_mixed, make_narrow, servers
from benchmarks.ways import PSQL, WAYS, Way, environment_is_clean, run_dsync, startup
from dsync.quickstart.servers import EmbeddedPostgres

_RESULTS = Path(__file__).parent / "results"
_SHAPES = {"kib": 1024, "small": 41}
_ATTACHED = ("process", "inline")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is copied."""

    scale: int
    mixed_rows: int
    documents: dict[str, int]


FULL = Sizes(scale=50, mixed_rows=1_000_000, documents={"kib": 3_000_000, "small": 12_000_000})
QUICK = Sizes(scale=5, mixed_rows=100_000, documents={"kib": 500_000, "small": 2_000_000})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, print the tables, write the JSON file."""
    options = _parse(arguments)
    if not environment_is_clean():
        print("unset the PG* variables first: they change what every program here connects to", file=sys.stderr)
        return 2
    sizes = QUICK if options.quick else FULL
    facts = machine.facts()
    bench = _Bench(rounds=options.rounds, only=options.only, skip=options.skip)
    if any(map(bench.wants, ("narrow", "mixed", "codec"))):
        with servers(options.postgres) as pair:
            facts["postgresql"] = ".".join(map(str, pair.source.version))
            facts["settings"] = SETTINGS
            bench.tables(pair, sizes)
    if bench.wants("coordinator"):
        bench.coordinator(sizes)
    followed: dict[str, Figures] = {}
    if bench.wants("stream"):
        followed = stream.measure(quick=options.quick, rounds=options.rounds, postgres=options.postgres)
    print(_heading(facts, options.rounds), report.markdown(bench.lines, base=PSQL), sep="\n\n")
    if followed:
        print("### following\n", stream.markdown(followed), sep="\n")
    if bench.speeds:
        print(codec.markdown(bench.speeds))
    _write(facts, bench, options.rounds, followed)
    return 0 if all(line.costs for line in bench.lines) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: for a first look")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs, in turn with the others")
    parser.add_argument(
        "--only", action="append", default=[], help="narrow, mixed, codec, coordinator or stream; repeatable"
    )
    parser.add_argument(
        "--skip", action="append", default=[], help="leave out ways with this in their name; repeatable"
    )
    parser.add_argument("--postgres", type=int, default=None, help="the servers' major version; the newest by default")
    return parser.parse_args(arguments)


class _Bench:
    """Runs ways in turn and collects what they cost."""

    def __init__(self, *, rounds: int, only: Sequence[str], skip: Sequence[str]) -> None:
        self.lines: list[Line] = []
        self.speeds: list[Speed] = []
        self._rounds = rounds
        self._only = only
        self._skip = skip

    def wants(self, work: str) -> bool:
        return not self._only or work in self._only

    def _wants_table(self, table: Table) -> bool:
        return self.wants(table.title)

    def _ways(self) -> list[Way]:
        chosen = [way for way in WAYS if not any(word in way.name for word in self._skip)]
        for program in {way.program for way in chosen if way.program and shutil.which(way.program) is None}:
            print(f"{program} is left out: it is not installed (Debian: apt-get install {program})", file=sys.stderr)
        return [way for way in chosen if not way.program or shutil.which(way.program)]

    # ------------------------------------------------------------ PostgreSQL

    def tables(self, pair: Servers, sizes: Sizes) -> None:
        """Every way for every table, one after the other, round after round."""
        pair.source.create_database("nothing")
        made: list[Table] = []
        if self.wants("narrow") or self.wants("codec"):
            made.append(_told("narrow table", make_narrow, pair.source, sizes.scale))
        if self.wants("mixed") or self.wants("codec"):
            made.append(_told("mixed table", make_mixed, pair.source, sizes.mixed_rows))
        ways = self._ways()
        lines = {
            (table.title, way.name): Line(work=table.title, way=way.name, rows=table.rows, size_bytes=table.copy_bytes)
            for table in filter(self._wants_table, made)
            for way in ways
        }
        self.lines += lines.values()
        if self.wants("codec"):
            self.speeds = [speed for table in made for speed in codec.speeds(pair.source, table)]
        target: str | None = None
        for number in range(1, self._rounds + 1):
            for table in filter(self._wants_table, made):
                for way in ways:
                    target = self._one_copy(pair, table, way, lines[table.title, way.name], target, number)

    def _one_copy(self, pair: Servers, table: Table, way: Way, line: Line, target: str | None, number: int) -> str:
        """Copy once into a fresh database, which stays until the next one."""
        with _noting(line, number):
            if way.attach:
                target = pair.fresh_target(target)
                line.startups.append(startup(pair, way.attach, target))
            target = pair.fresh_target(target)
            cost = way.copy(pair, table, target)
            arrived = pair.count(target, table.name)
            if arrived != table.rows:
                raise CommandFailedError(f"{arrived:,} rows of {table.rows:,} have arrived")
            line.costs.append(cost)
        return target or pair.fresh_target()

    # ----------------------------------------------------------- coordinator

    def coordinator(self, sizes: Sizes) -> None:
        """Documents that nobody has to make or keep: what the coordinator and the way through it cost."""
        lines = {
            (shape, attach): Line(
                work=f"coordinator alone, {size:,}-byte documents",
                way=f"dsync, {'processes' if attach == 'process' else attach}",
                rows=sizes.documents[shape],
                size_bytes=size * sizes.documents[shape],
            )
            for shape, size in _SHAPES.items()
            for attach in _ATTACHED
        }
        self.lines += lines.values()
        for number in range(1, self._rounds + 1):
            for (shape, attach), line in lines.items():
                with _noting(line, number):
                    empty, _ = run_dsync(f"random://bench?shape={shape}&documents=0", "null://", "--attach", attach)
                    line.startups.append(empty)
                    uri = f"random://bench?shape={shape}&documents={line.rows}&partitions=8"
                    cost, rows = run_dsync(uri, "null://", "--attach", attach)
                    if rows != line.rows:
                        raise CommandFailedError(f"{rows:,} documents of {line.rows:,} have arrived")
                    line.costs.append(cost)


@contextlib.contextmanager
def _noting(line: Line, number: int) -> Iterator[None]:
    """Say what is going on; a way that fails is a line without figures and stops no other."""
    print(f"round {number}: {line.work}: {line.way} …", end=" ", file=sys.stderr, flush=True)
    try:
        yield
    except CommandFailedError as exc:
        line.problem = str(exc).strip().splitlines()[-1][:200]
        print(f"failed: {exc}", file=sys.stderr)
    else:
        print(f"{line.costs[-1].elapsed_s:.2f} s", file=sys.stderr)


def _told(what: str, make: Callable[[EmbeddedPostgres, int], Table], server: EmbeddedPostgres, size: int) -> Table:
    print(f"making the {what} …", end=" ", file=sys.stderr, flush=True)
    table = make(server, size)
    print(f"{table.rows:,} rows, {table.copy_bytes / 1e6:,.0f} MB", file=sys.stderr)
    return table


def _heading(facts: dict[str, object], rounds: int) -> str:
    packages = facts["packages"]
    assert isinstance(packages, dict)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_mib']:,} MiB, Linux {facts['kernel']}; "
        f"PostgreSQL {facts.get('postgresql', 'not used')}, Python {facts['python']}, "
        f"grpcio {packages['grpcio']}, protobuf {packages['protobuf']}, psycopg {packages['psycopg']}; "
        f"commit {facts['commit']}, load before {facts['load_before']:.2f}; medians of {rounds} interleaved rounds."
    )


def _write(facts: dict[str, object], bench: _Bench, rounds: int, followed: dict[str, Figures]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    found = {
        "machine": facts,
        "rounds": rounds,
        "lines": report.as_json(bench.lines),
        "codec": [asdict(speed) for speed in bench.speeds],
        "following": {name: asdict(figures) for name, figures in followed.items()},
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"all samples: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
