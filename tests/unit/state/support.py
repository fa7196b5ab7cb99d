"""What the tests of the store share: a clock they move, a planned run, and processes that hold leases."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from dsync.protocol.types import FinishStep, PageType, Partition
from dsync.state import (
    Holder,
    NamespaceRow,
    RunRow,
    Store,
    finish_units,
    partition_units,
    this_process,
)

SECOND_US = 1_000_000
SCRIPT = Path(__file__).with_name("actor.py")


@dataclasses.dataclass(slots=True)
class HandClock:
    """A clock that stands still until it is moved; setting it leaves the uptime alone."""

    time_us: int = 1_800_000_000 * SECOND_US
    up_us: int = 5_000 * SECOND_US

    def now_us(self) -> int:
        return self.time_us

    def uptime_us(self) -> int:
        return self.up_us

    def advance(self, seconds: float) -> None:
        self.time_us += int(seconds * SECOND_US)
        self.up_us += int(seconds * SECOND_US)

    def set_by(self, seconds: float) -> None:
        """As an administrator, or a time server, does."""
        self.time_us += int(seconds * SECOND_US)


def elsewhere(holder: Holder | None = None) -> Holder:
    """A holder on another machine."""
    return dataclasses.replace(holder or this_process(), host="other.example", boot_id="another boot", pid=4242)


def planned_run(store: Store, *, name: str | None = None, namespaces: int = 2, partitions: int = 3) -> RunRow:
    """A flow with a run whose plan has `t0`, `t1`… with that many partitions each, and two finish steps."""
    flow, _ = store.open_flow(name=name, fingerprint=f"ends of {name}", spec={"version": 1})
    run = store.new_run(flow.flow, mode="copy")
    rows = [
        NamespaceRow(
            namespace=f"t{position}",
            target=f"target.t{position}",
            position=position,
            page_type=PageType.PG_COPY_BINARY,
            columns=("id", 'na"me'),
            upsert=position == 1,
        )
        for position in range(namespaces)
    ]
    units = [
        unit for row in rows for unit in partition_units(row.namespace, row.position, slices(row.namespace, partitions))
    ]
    steps = finish_units(
        [
            FinishStep(id="index-1", kind="index", name="i", namespace="t0", payload=b"CREATE"),
            FinishStep(id="key-1", kind="constraint", name="k", depends_on=("index-1",), needs_source=True),
        ]
    )
    store.save_plan(flow.flow, run.run, rows, [*units, *steps], snapshot=b"snapshot-1", extra={"seen": ["x"]})
    return run


def slices(namespace: str, count: int, tag: str = "") -> list[Partition]:
    return [
        Partition(namespace=namespace, header="h", value=f"{tag}{place}", cursor=b"%d" % place, estimated_count=10)
        for place in range(count)
    ]


class Actor:
    """Another process at work on a state file: `actor.py`, obeying one word a line and answering with one line."""

    def __init__(self, *args: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self, *, reap: bool = True) -> None:
        """End it as `kill -9` does; unreaped, it stays in the process list as a zombie of the system's kind."""
        self.process.kill()
        if reap:
            self.process.wait()
