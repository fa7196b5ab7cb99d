"""One source that is filled once, and for each test a copy of it, an empty sink and a command between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.lives import Flow, short_directory
from tests.crash.tables import fill
from tests.support.databases import DatabaseFactory, PgPair, PgServers

MakeFlow = Callable[..., Flow]


@pytest.fixture
def pg_pair(request: pytest.FixtureRequest, pg_servers: PgServers) -> PgPair:
    """PostgreSQL 16 to 18, or `parametrize("pg_pair", [(15, 18)], indirect=True)`."""
    source, sink = getattr(request, "param", (16, 18))
    return PgPair(source=pg_servers.shared(source), sink=pg_servers.shared(sink))


STATES = ("sqlite", "postgresql")


@pytest.fixture
def state_kind(request: pytest.FixtureRequest) -> str:
    """Where flows are remembered: in a file, or `parametrize("state_kind", ["postgresql"], indirect=True)`.

    `DSYNC_CRASH_STATE=postgresql` (or sqlite) runs everything that does not look into the file itself with that one.
    """
    kind = os.environ.get("DSYNC_CRASH_STATE") or getattr(request, "param", "sqlite")
    return "sqlite" if request.module.__name__.endswith(_LOOK_INTO_THE_FILE) else str(kind)


_LOOK_INTO_THE_FILE = ("test_state_disk", "test_state_lost", "test_zombies")


def both_kinds(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each name with a kind of state, by turns: twice the tests would say little more than once."""
    return [(STATES[place % len(STATES)], name) for place, name in enumerate(names)]


@pytest.fixture
def make_flow(
    tmp_path: Path, source_db: DatabaseFactory, sink_db: DatabaseFactory, state_kind: str
) -> Iterator[MakeFlow]:
    """Makes flows between fresh databases; whatever of them still runs at the end is killed."""
    made: list[Flow] = []
    with short_directory() as runtime:

        def make(*, prepare: Callable[[str], object] | None = fill, **options: object) -> Flow:
            directory = tmp_path / f"flow{len(made)}"
            directory.mkdir()
            own = runtime / str(len(made))
            own.mkdir(mode=0o700)
            flow = Flow(
                source=options.pop("source", None) or source_db(prepare),  # type: ignore[arg-type]
                sink=options.pop("sink", None) or sink_db(),  # type: ignore[arg-type]
                directory=directory,
                runtime=own,
                state_db=options.pop("state_db", None)  # type: ignore[arg-type]
                or (sink_db() if state_kind == "postgresql" else None),
                **options,  # type: ignore[arg-type]
            )
            made.append(flow)
            return flow

        try:
            yield make
        finally:
            for flow in made:
                flow.end()


@pytest.fixture
def flow(make_flow: MakeFlow) -> Flow:
    """One flow between two fresh databases."""
    return make_flow()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file system of its own."""

    path: Path

    def leave_free(self, size_bytes: int) -> None:
        """Make it so large that it has that much space left."""
        usage = shutil.disk_usage(self.path)
        options = f"remount,size={usage.used + size_bytes}"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that may be made small; skips where this user may not mount one."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk needs root, to mount it")
    # Not below the test's own directory, through which the server's user may not pass.
    with tempfile.TemporaryDirectory(prefix="dsync-crash-disk-") as name:
        Path(name).chmod(0o755)
        mount = ["mount", "-t", "tmpfs", "-o", "size=100m,mode=0777", "tmpfs", name]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        yield Disk(path=Path(name))
        subprocess.run(["umount", "-l", name], check=True)
