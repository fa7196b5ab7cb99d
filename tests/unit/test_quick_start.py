"""What keeps start-up short, and what must not go missing for it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

from dsync.cli.running import run
from dsync.cli.settings import Settings


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


def test_what_runs_a_copy_loads_no_program_for_consoles() -> None:
    """rich and pygments come with the progress bar alone; structlog would load them for tracebacks nobody sees."""
    loaded = modules_after("import dsync.app.sync")
    assert "structlog" in loaded
    assert not {"rich", "pygments", "alembic"} & loaded


def test_what_runs_a_copy_loads_neither_the_verifier_nor_the_spool() -> None:
    assert not {"dsync.verify", "dsync.spool"} & modules_after("import dsync.app.sync")


def test_rich_can_be_had_by_whoever_wants_it() -> None:
    assert "rich" in modules_after("import dsync.app.sync, rich.console")


def test_the_collector_that_is_put_off_while_modules_are_imported_runs_while_a_command_does() -> None:
    """A copy may take days."""

    async def look(stopping: asyncio.Event) -> bool:
        return gc.isenabled()

    gc.disable()
    try:
        assert run(Settings(), look)
    finally:
        gc.enable()
        gc.unfreeze()
