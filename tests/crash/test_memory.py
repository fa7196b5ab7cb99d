"""Memory is bounded by the limit, whatever the rows weigh."""

from __future__ import annotations

import signal
import threading

import psutil
import psycopg
import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Life
from tests.crash.oracles import contents
from tests.support.waiting import wait_for

ROWS, ROW_BYTES = 64, 4 * 1024 * 1024
LIMIT_BYTES = 512 * 1024 * 1024


def fill_with_large_rows(uri: str) -> None:
    """Rows that compression makes nothing of."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE large (id int PRIMARY KEY, body bytea NOT NULL)")
        connection.execute("ALTER TABLE large ALTER COLUMN body SET STORAGE EXTERNAL")
        connection.execute(
            "INSERT INTO large SELECT g, convert_to(repeat(md5(g::text), %s), 'UTF8') FROM generate_series(1, %s) g",
            [ROW_BYTES // 32, ROWS],
        )


class PeakMemory:
    """Samples what all processes of a flow take together: Pss counts a shared page once."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._coordinator = psutil.Process(life.pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0
        self.samples = 0
        self._thread.start()

    def stop(self) -> int:
        self._thread.join(30)
        return self.peak_bytes

    def _watch(self) -> None:
        pause = threading.Event()
        while self._life.is_running:
            total = sum(_pss(process) for process in [self._coordinator, *self._life.plugins()])
            self.peak_bytes = max(self.peak_bytes, total)
            self.samples += 1
            pause.wait(0.02)


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0


@pytest.mark.slow
def test_rows_of_four_megabytes_stay_within_the_limit(make_flow: MakeFlow) -> None:
    flow = make_flow(prepare=fill_with_large_rows, page_bytes=4 * 1024 * 1024)
    life = flow.start("--memory-limit", "512MiB")
    memory = PeakMemory(life)
    ending = life.wait()
    peak = memory.stop()
    assert ending.exit_code == 0, ending.log[-4000:]
    assert contents(flow.sink, ["public.large"]) == contents(flow.source, ["public.large"])
    assert memory.samples > 10
    assert peak < LIMIT_BYTES, f"{peak / 2**20:.0f} MiB"


def _make_tables(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE large (id int PRIMARY KEY, body text)")
        connection.execute("ALTER TABLE large ALTER COLUMN body SET STORAGE EXTERNAL")
        connection.execute("CREATE TABLE narrow (id int PRIMARY KEY, filling text)")


@pytest.mark.slow
def test_large_transactions_and_large_rows_are_followed_within_less_than_they_weigh(make_flow: MakeFlow) -> None:
    """Frames go from source to sink as they come: what is held is a few of them, whatever there is."""
    flow = make_flow(prepare=_make_tables, mode="full")
    life = flow.start("--memory-limit", "512MiB")
    life.wait_for_log('"streaming"')
    memory = PeakMemory(life)
    flow.source.run(
        "INSERT INTO narrow SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(1, 50000) g",
        "INSERT INTO large SELECT g, repeat(md5(g::text), 131072) FROM generate_series(1, 32) g",
    )
    wait_for(
        lambda: flow.sink.value("SELECT count(*) FROM large") == ROWS // 2 or not life.is_running,
        timeout_s=90,
        poll_s=0.3,
        what="the rows at the sink",
    )
    life.signal(signal.SIGINT)
    ending = life.wait()
    peak = memory.stop()
    assert ending.exit_code == 130, ending.log[-4000:]
    tables = ["public.large", "public.narrow"]
    assert contents(flow.sink, tables) == contents(flow.source, tables)
    assert memory.samples > 10
    # A hundred and twenty-eight MiB of rows, over processes that take a hundred and forty with nothing to do.
    assert peak < 370 * 2**20, f"{peak / 2**20:.0f} MiB"
