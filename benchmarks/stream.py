"""Following: dsync beside PostgreSQL's own logical replication, on the same servers and in turn.

Three kinds of load: one transaction that changes many rows, pgbench as fast as it goes, and pgbench at a fixed rate. A
heartbeat row, written at the source and looked for at the sink, says when something has arrived; both clocks are this
machine's.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.measure import CommandFailedError, Watch
from benchmarks.tables import Servers, servers

_POLL_S = 0.002
_BEAT_EVERY_S = 0.05
_LONGEST_S = 600.0
_BEAT = "CREATE TABLE beat (id bigint PRIMARY KEY)"
_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Sizes:
    scale: int
    update_rows: int
    load_s: int
    rate: int


FULL = Sizes(scale=5, update_rows=300_000, load_s=20, rate=300)
QUICK = Sizes(scale=1, update_rows=100_000, load_s=5, rate=200)


@dataclass(kw_only=True)
class Figures:
    """What one way did in each round."""

    update_rows_s: list[float] = field(default_factory=list)
    transactions_s: list[float] = field(default_factory=list)
    """Applied under full load, what was left behind when it ended included."""
    lags_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0


Following = Callable[[Servers, str, str], contextlib.AbstractContextManager[Watch | None]]
"""(servers, source database, sink database): follows while the block runs, which begins when it has caught up."""


@contextlib.contextmanager
def native(pair: Servers, source: str, target: str) -> Iterator[None]:
    """CREATE SUBSCRIPTION, with the defaults of the server's version."""
    _create_schema(pair, source, target)
    with pair.source.connect(source) as publisher, pair.sink.connect(target) as subscriber:
        publisher.execute("CREATE PUBLICATION bench FOR ALL TABLES")
        subscriber.execute(
            f"CREATE SUBSCRIPTION {target} CONNECTION '{pair.source.uri(source)}' PUBLICATION bench".encode()
        )
        try:
            _wait(lambda: _is_empty(subscriber, "SELECT 1 FROM pg_subscription_rel WHERE srsubstate <> 'r' LIMIT 1"))
            yield
        finally:
            subscriber.execute(f"DROP SUBSCRIPTION {target}".encode())
            publisher.execute("DROP PUBLICATION bench")


def dsync(*options: str) -> Following:
    """`dsync sync`, which copies first."""

    @contextlib.contextmanager
    def following(pair: Servers, source: str, target: str) -> Iterator[Watch]:
        command = Path(sys.executable).parent / "dsync"
        with tempfile.TemporaryDirectory(prefix="dsync-bench-") as folder:
            ends = (pair.source.uri(source), pair.sink.uri(target))
            state = ("--state", f"{folder}/state.db")
            with Path(folder, "log").open("w+") as log:
                process = subprocess.Popen(
                    [str(command), "sync", *ends, *state, "--progress", "plain", *options], stdout=log, stderr=log
                )
                watch = Watch([process.pid])
                watch.start()
                try:
                    _wait(lambda: "streaming" in Path(folder, "log").read_text() or process.poll() is not None)
                    if process.poll() is not None:
                        raise CommandFailedError(Path(folder, "log").read_text()[-2000:])
                    yield watch
                finally:
                    watch.stop()
                    process.terminate()
                    process.wait(60)
            with pair.source.connect(source) as connection:
                for (slot,) in connection.execute("SELECT slot_name FROM pg_replication_slots").fetchall():
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                for (name,) in connection.execute("SELECT pubname FROM pg_publication").fetchall():
                    connection.execute(f'DROP PUBLICATION "{name}"'.encode())

    return following


WAYS: dict[str, Following] = {
    "CREATE SUBSCRIPTION": native,
    "dsync, processes": dsync(),
    "dsync, inline": dsync("--attach", "inline"),
}


def measure(*, quick: bool, rounds: int, postgres: int | None) -> dict[str, Figures]:
    """Run all ways in turn, round after round."""
    sizes = QUICK if quick else FULL
    figures = {name: Figures() for name in WAYS}
    with servers(postgres) as pair:
        pgbench = str(pair.source.installation.tool("pgbench"))
        for number in range(1, rounds + 1):
            for name, way in WAYS.items():
                print(f"round {number}: following: {name} …", file=sys.stderr, flush=True)
                try:
                    _one(pair, way, figures[name], sizes, pgbench, f"r{number}_{list(WAYS).index(name)}")
                except CommandFailedError as exc:
                    print(f"failed: {exc}", file=sys.stderr)
    return figures


def _one(pair: Servers, way: Following, figures: Figures, sizes: Sizes, pgbench: str, name: str) -> None:
    source, target = f"source_{name}", f"sink_{name}"
    uri = pair.source.create_database(source)
    pair.sink.create_database(target)
    _run([pgbench, "-i", "-q", "-s", str(sizes.scale), uri])
    with pair.source.connect(source) as connection:
        connection.execute(_BEAT)
        # It has no key, so that its rows could not be told apart.
        connection.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")
    try:
        with way(pair, source, target) as watch:
            figures.update_rows_s.append(_update(pair, source, target, sizes.update_rows))
            figures.transactions_s.append(_full_load(pair, source, target, sizes, pgbench))
            figures.lags_s += _lags(pair, source, target, sizes, pgbench)
        if watch is not None:
            figures.peak_bytes = max(figures.peak_bytes, watch.peak_bytes)
    finally:
        pair.source.drop_database(source)
        pair.sink.drop_database(target)


def _update(pair: Servers, source: str, target: str, rows: int) -> float:
    """Rows a second from the commit of one transaction to its arrival."""
    with pair.source.connect(source) as connection:
        with connection.transaction():
            connection.execute("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= %s", [rows])
            connection.execute("INSERT INTO beat VALUES (1)")
        started_s = time.perf_counter()
    _await_beat(pair, target, 1)
    return rows / (time.perf_counter() - started_s)


def _full_load(pair: Servers, source: str, target: str, sizes: Sizes, pgbench: str) -> float:
    started_s = time.perf_counter()
    said = _run([pgbench, "-n", "-c", "4", "-j", "2", "-T", str(sizes.load_s), pair.source.uri(source)])
    with pair.source.connect(source) as connection:
        connection.execute("INSERT INTO beat VALUES (2)")
    _await_beat(pair, target, 2)
    done = next(line for line in said.splitlines() if "actually processed" in line)
    return int(done.rsplit(":", 1)[1].split("/")[0]) / (time.perf_counter() - started_s)


def _lags(pair: Servers, source: str, target: str, sizes: Sizes, pgbench: str) -> list[float]:
    """How long each heartbeat took, at a rate that both keep up with."""
    written: dict[int, float] = {}
    seen: dict[int, float] = {}
    stopping = threading.Event()

    def beat() -> None:
        number = 10
        with pair.source.connect(source) as connection:
            while not stopping.is_set():
                number += 1
                connection.execute("INSERT INTO beat VALUES (%s)", [number])
                written[number] = time.perf_counter()
                stopping.wait(_BEAT_EVERY_S)

    def look() -> None:
        last = 10
        with pair.sink.connect(target) as connection:
            while not stopping.is_set() or last < max(written):
                row = connection.execute("SELECT max(id) FROM beat").fetchone()
                now_s = time.perf_counter()
                newest = row[0] if row and row[0] else 0
                for number in range(last + 1, newest + 1):
                    seen[number] = now_s
                last = max(last, newest)
                time.sleep(_POLL_S)

    threads = [threading.Thread(target=work) for work in (beat, look)]
    for thread in threads:
        thread.start()
    try:
        _run([pgbench, "-n", "-c", "2", "-R", str(sizes.rate), "-T", str(sizes.load_s), pair.source.uri(source)])
    finally:
        stopping.set()
        for thread in threads:
            thread.join(_LONGEST_S)
    return [max(0.0, seen[number] - at_s) for number, at_s in written.items() if number in seen]


def _await_beat(pair: Servers, target: str, number: int) -> None:
    with pair.sink.connect(target) as connection:
        _wait(lambda: not _is_empty(connection, f"SELECT 1 FROM beat WHERE id = {number}"), poll_s=_POLL_S)


def _create_schema(pair: Servers, source: str, target: str) -> None:
    tool = pair.source.installation.tool
    dump = subprocess.run(
        [str(tool("pg_dump")), "-s", "-d", pair.source.uri(source)], capture_output=True, text=True, check=True
    )
    subprocess.run(
        [str(tool("psql")), "-q", "-d", pair.sink.uri(target)],
        input=dump.stdout,
        text=True,
        check=True,
        capture_output=True,
    )


def _is_empty(connection: psycopg.Connection, query: str) -> bool:
    return connection.execute(query.encode()).fetchone() is None


def _wait(condition: Callable[[], bool], *, poll_s: float = 0.05) -> None:
    deadline_s = time.monotonic() + _LONGEST_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise CommandFailedError(f"nothing has arrived within {_LONGEST_S:g} s")
        time.sleep(poll_s)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailedError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def markdown(figures: Mapping[str, Figures]) -> str:
    """A table, with the first way as the base of the ratios; ways that failed are left out."""
    figures = {name: own for name, own in figures.items() if own.lags_s}
    if not figures:
        return "nothing was followed to its end"
    base = next(iter(figures.values()))
    lines = [
        "| way | one large update, rows/s | ratio | pgbench, tx/s applied | ratio | lag p50 ms | p99 ms | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, own in figures.items():
        update, load = statistics.median(own.update_rows_s), statistics.median(own.transactions_s)
        lags = sorted(own.lags_s)
        lines.append(
            f"| {name} | {update:,.0f} | {update / statistics.median(base.update_rows_s):.2f} | {load:,.0f} |"
            f" {load / statistics.median(base.transactions_s):.2f} | {1000 * lags[len(lags) // 2]:.0f} |"
            f" {1000 * lags[int(len(lags) * 0.99)]:.0f} | {own.peak_bytes / _MIB:.0f} |"
        )
    return "\n".join(lines)
