"""What is done to a flow, by the names that the schedule has for it."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import psycopg
from psycopg import sql

from tests.chaos.links import Line
from tests.chaos.schedule import WEIGHTS, Step
from tests.chaos.tables import BROKEN, GROWN, REWRITTEN, TRUNCATED
from tests.chaos.world import NAME, ChaosFound, World
from tests.support.databases import Database

_OURS = "datname = current_database() AND application_name LIKE 'dsync%'"
_BREAKS = (
    "DROP COLUMN third",
    "RENAME COLUMN first TO other",
    "ALTER COLUMN second TYPE text",
    "ADD COLUMN computed uuid DEFAULT gen_random_uuid()",
)
_ADDS = (
    "{} text",
    "{} int DEFAULT 7",
    "{} text NOT NULL DEFAULT 'x'",
    "{} timestamptz DEFAULT now()",
    "{} numeric(9,2)",
)


@dataclass(kw_only=True, eq=False)
class Faults:
    """Does one step after the other; what lasts a while is taken back later, with others in between."""

    world: World
    _undo: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _columns: int = 0

    def do(self, step: Step) -> None:
        self.world.tell(f"{step.name} ({step.seed})")
        getattr(self, f"_{step.name}")(random.Random(step.seed))

    def take_back(self, *, all_of_them: bool = False) -> None:
        """What is over by now."""
        while True:
            now_s = time.monotonic()
            due = [undo for at_s, undo in self._undo if all_of_them or at_s <= now_s]
            self._undo = [] if all_of_them else [(at_s, undo) for at_s, undo in self._undo if at_s > now_s]
            for undo in due:
                undo()
            if not (all_of_them and self._undo):
                return
            self.world.keep_alive()
            self.world.rest(1)

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + seconds, undo))

    # -------------------------------------------------------------- processes

    def _kill_coordinator(self, chance: random.Random) -> None:
        life = self.world.keep_alive()
        self.world.expect_end()
        life.process.kill()
        self.world.end_of_life()
        self.world.rest(chance.choice((0, 0, 2)))

    def _end_coordinator(self, chance: random.Random) -> None:
        self._ask_to_end(signal.SIGTERM)

    def _interrupt_coordinator(self, chance: random.Random) -> None:
        self._ask_to_end(signal.SIGINT)

    def _ask_to_end(self, number: int) -> None:
        life = self.world.keep_alive()
        self.world.expect_end()
        life.signal(number)
        # One that was frozen hears nothing before, and what would thaw it comes after this.
        life.signal(signal.SIGCONT)
        self.world.end_of_life()

    def _kill_source_plugin(self, chance: random.Random) -> None:
        self._kill_plugin(self.world.source_line)

    def _kill_sink_plugin(self, chance: random.Random) -> None:
        self._kill_plugin(self.world.sink_line)

    def _kill_plugin(self, line: Line) -> None:
        plugin = self.world.plugin(line)
        if plugin is not None:
            _send(plugin, signal.SIGKILL)

    def _freeze_a_process(self, chance: random.Random) -> None:
        processes = self.world.processes()
        if not processes:
            return
        process = chance.choice(processes)
        # Beside the back-off of whoever talks to it.
        self.world.disturbed()
        _send(process, signal.SIGSTOP)
        self._later(chance.uniform(1, 8), lambda: _send(process, signal.SIGCONT))

    def _second_coordinator(self, chance: random.Random) -> None:
        world = self.world
        first = world.keep_alive()
        if not world.is_streaming:
            # It may not have taken hold of the flow yet.
            return
        second = world.flow.start()
        try:
            code = second.process.wait(30)
        except subprocess.TimeoutExpired:
            if first.is_running:
                raise ChaosFound(f"two coordinators run one flow:\n{second.log[-3000:]}") from None
            world.end_of_life()
            world.life = second
            return
        if first.is_running and code != 3:
            raise ChaosFound(f"a second coordinator ended with {code}:\n{second.log[-3000:]}")

    def _pause_and_resume(self, chance: random.Random) -> None:
        world = self.world
        paused = world.command("pause", NAME, "--state", world.flow.location)
        world.tell(f"pause ended with {paused.returncode}")

        def resume() -> None:
            # A life that begins paused says that, and nothing of a phase.
            if not world.keep_alive().comes_to('"phase_changed"', '"run_paused"', timeout_s=30):
                # It has ended, and the next one begins paused.
                self._later(1, resume)
                return
            try:
                resumed = world.command("resume", NAME, "--state", world.flow.location)
            except subprocess.TimeoutExpired:
                # Nothing ran any more, so that it was the flow, until it was killed.
                world.disturbed()
                self._later(1, resume)
                return
            world.tell(f"resume ended with {resumed.returncode}")
            if resumed.returncode:
                # What ran has ended in between: without a password in its state nobody else can go on.
                self._later(1, resume)

        self._later(chance.uniform(1, 6), resume)

    def _begin_again(self, chance: random.Random) -> None:
        self._ask_to_end(signal.SIGINT)
        self.world.has_streamed = False
        self.world.keep_alive("--again")

    # ------------------------------------------------------------------ spool

    def _remove_spool(self, chance: random.Random) -> None:
        self._kill_coordinator(random.Random(0)) if chance.random() < 0.5 else self._ask_to_end(signal.SIGINT)
        shutil.rmtree(self.world.spools, ignore_errors=True)

    def _fill_spool(self, chance: random.Random) -> None:
        """Nothing can be written at the sink, and much comes."""
        self._lock("grown", chance.uniform(3, 8))
        self._at_source("UPDATE grown SET word = repeat(md5(id::text), 30), version = version + 1")

    # ---------------------------------------------------------------- servers

    def _end_source_sessions(self, chance: random.Random) -> None:
        self._end_sessions(self.world.source, chance)

    def _end_sink_sessions(self, chance: random.Random) -> None:
        self._end_sessions(self.world.sink, chance)

    def _end_sessions(self, database: Database, chance: random.Random) -> None:
        share = chance.choice((0.3, 1.0))
        self.world.disturbed()
        database.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS} AND random() < {share}")

    def _cancel_sink_statements(self, chance: random.Random) -> None:
        self.world.sink.rows(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {_OURS} AND state = 'active'")

    def _end_walsender(self, chance: random.Random) -> None:
        self.world.source.rows("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")

    def _restart_source(self, chance: random.Random) -> None:
        self._restart(self.world.source, immediate=False)

    def _crash_source(self, chance: random.Random) -> None:
        self._restart(self.world.source, immediate=True)

    def _restart_sink(self, chance: random.Random) -> None:
        self._restart(self.world.sink, immediate=False)

    def _crash_sink(self, chance: random.Random) -> None:
        self._restart(self.world.sink, immediate=True)

    def _restart(self, database: Database, *, immediate: bool) -> None:
        self.world.disturbed()
        database.server.restart(immediate=immediate)

    def _lock_at_sink(self, chance: random.Random) -> None:
        self._lock(chance.choice(("parents", "keyless", "pgbench_accounts")), chance.uniform(1, 6))

    def _lock(self, table: str, seconds: float) -> None:
        connection = self.world.sink.connect()
        try:
            connection.execute("SET lock_timeout = '3s'")
            connection.execute("BEGIN")
            connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(sql.Identifier(table)))
        except psycopg.Error:
            # It is not there yet, or being made.
            connection.close()
            return
        self._later(seconds, connection.close)

    # ------------------------------------------------------------------ lines

    def _cut_source_link(self, chance: random.Random) -> None:
        self._cut(self.world.source_line, chance)

    def _cut_sink_link(self, chance: random.Random) -> None:
        self._cut(self.world.sink_line, chance)

    def _cut(self, line: Line, chance: random.Random) -> None:
        self.world.disturbed()
        if chance.random() < 0.5:
            line.do(lambda proxy: proxy.cut_after(chance.randrange(1, 100_000)))
            return
        line.do(lambda proxy: proxy.refuse())
        line.do(lambda proxy: proxy.cut())
        self._later(chance.uniform(0.1, 5), line.mend)

    def _slow_source_link(self, chance: random.Random) -> None:
        self._slow(self.world.source_line, chance)

    def _slow_sink_link(self, chance: random.Random) -> None:
        self._slow(self.world.sink_line, chance)

    def _slow(self, line: Line, chance: random.Random) -> None:
        self.world.disturbed()

        def slow(proxy: object) -> None:
            line.proxy.bytes_per_s, line.proxy.delay_s = chance.choice(((20_000, 0.0), (None, 0.05), (1_000_000, 0.01)))

        line.do(slow)
        self._later(chance.uniform(2, 8), line.mend)

    def _silence_sink_link(self, chance: random.Random) -> None:
        self.world.disturbed()
        self.world.sink_line.do(lambda proxy: proxy.black_hole())
        self._later(chance.uniform(1, 8), self.world.sink_line.mend)

    # ----------------------------------------------------------------- tables

    def _large_transaction(self, chance: random.Random) -> None:
        """Tens of thousands of changes, some of whose parts are rolled back, and perhaps all of it."""
        ending = chance.choice(("COMMIT", "COMMIT", "ROLLBACK"))
        self._at_source(
            "BEGIN",
            "UPDATE parents SET version = version + 1",
            "SAVEPOINT one",
            "INSERT INTO keyless SELECT g, 'gone' FROM generate_series(1, 5000) g",
            "UPDATE typed SET amount = 0",
            "ROLLBACK TO one" if chance.random() < 0.6 else "RELEASE one",
            "SAVEPOINT two",
            "DELETE FROM children WHERE id % 3 = 0",
            "INSERT INTO grown (id, version) SELECT g, 1 FROM generate_series(20000000, 20004000) g"
            " ON CONFLICT (id) DO UPDATE SET version = grown.version + 1",
            "ROLLBACK TO two" if chance.random() < 0.3 else "RELEASE two",
            "UPDATE wide SET small = small + 1",
            "UPDATE swapped SET place = -place",
            ending,
        )

    def _truncate(self, chance: random.Random) -> None:
        self._at_source(f"TRUNCATE {chance.choice(TRUNCATED)}")

    def _rewrite_table(self, chance: random.Random) -> None:
        self._at_source(f"VACUUM FULL {chance.choice(REWRITTEN)}")

    def _add_column(self, chance: random.Random) -> None:
        table = chance.choice(GROWN)
        if not self.world.has_streamed:
            # Its copy may be under way, and a table that is altered then stops.
            self.world.broken[table] = "a column was added while it may have been copied"
        self._columns += 1
        self._at_source(f"ALTER TABLE {table} ADD COLUMN {chance.choice(_ADDS).format(f'added_{self._columns}')}")

    def _break_table(self, chance: random.Random) -> None:
        table = next((name for name in BROKEN if name not in self.world.broken), None)
        if table is not None:
            change = chance.choice(_BREAKS)
            self.world.broken[table] = change
            self._at_source(f"ALTER TABLE {table} {change}")

    def _at_source(self, *statements: str) -> None:
        """As somebody who gives up where others are in the way."""
        try:
            with self.world.source.connect() as connection:
                connection.execute("SET lock_timeout = '5s'")
                for statement in statements:
                    connection.execute(statement.encode())
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.OperationalError) as error:
            self.world.tell(f"not done: {type(error).__name__}")


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        # It has ended by itself.
        return


assert all(hasattr(Faults, f"_{name}") for name in WEIGHTS), "the schedule names what nobody can do"
