"""A plug-in's process starts, is replaced when it dies, and leaves nothing behind, whatever ends it or its owner."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from dsync.plugins import ahead
from dsync.plugins.manager import OpenEndpoint, OpenOptions, open_endpoint
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import page_store, runtime_directory, sweep
from dsync.plugins.supervision import Patience, PluginEvent
from dsync.protocol import errors
from dsync.protocol.channel import Deadlines
from dsync.protocol.types import Page, PageType, ReadRequest, SessionRequest, UnitRef, WriteContext, WriteRequest
from dsync.sdk.redaction import Redactor
from tests.contract import broken_plugins
from tests.contract.rig import document
from tests.support.waiting import wait_for, wait_for_async

ROOT = Path(__file__).parents[2]
REGISTRY = Registry.installed(also=[("memory", "dsync.sdk.testing.memory_plugin:SPEC"), *broken_plugins.ALL])
SECRET = "canary-hunter22"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the connectors of this folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def runtime() -> Iterator[Path]:
    with runtime_directory() as directory:
        yield directory


@pytest.fixture
def events() -> list[PluginEvent]:
    return []


def opened(
    reference: str, runtime: Path, events: list[PluginEvent] | None = None, **settings: Any
) -> AbstractAsyncContextManager[OpenEndpoint]:
    return open_endpoint(
        reference,
        registry=REGISTRY,
        runtime=runtime,
        label="source",
        settings=OpenOptions(**{"grace_s": 5.0, **settings}),
        on_event=(events if events is not None else []).append,
    )


def is_gone(pid: int | None) -> bool:
    assert pid is not None
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def recovered(endpoint: OpenEndpoint, restarts: int = 1) -> None:
    await wait_for_async(lambda: endpoint.restarts >= restarts, what="the successor")


# --------------------------------------------------------------------- start


async def test_a_process_that_was_started_ahead_is_taken(runtime: Path) -> None:
    """It has been importing while its owner was; the first endpoints get those, the next one a new one."""
    before = set(psutil.Process().children())
    async with ahead.started_ahead(2):
        early = {child.pid for child in set(psutil.Process().children()) - before}
        async with opened("memory://a", runtime) as one, opened("memory://b", runtime) as two:
            assert {one.pid, two.pid} == early
            async with opened("memory://c", runtime) as three:
                assert three.pid not in early
                assert (await three.connector.get_info()).db_type == "memory"


async def test_a_process_that_nobody_took_is_ended(runtime: Path) -> None:
    """Also where what they were meant for has failed."""
    before = set(psutil.Process().children())
    with pytest.raises(LookupError):
        async with ahead.started_ahead(2):
            early = set(psutil.Process().children()) - before
            async with opened("memory://a", runtime):
                raise LookupError
    assert len(early) == 2
    assert all(is_gone(child.pid) for child in early)


async def test_a_process_that_has_died_ahead_is_not_taken(runtime: Path) -> None:
    before = set(psutil.Process().children())
    async with ahead.started_ahead(1):
        (early,) = set(psutil.Process().children()) - before
        ((_, protocol),) = ahead._waiting.get() or []
        early.kill()
        await protocol.exited.wait()
        async with opened("memory://a", runtime) as one:
            assert one.pid != early.pid
            assert (await one.connector.get_info()).db_type == "memory"


def test_a_process_that_was_started_ahead_ends_with_its_owner() -> None:
    """Whoever has no job for it leaves it nothing but the end of its input."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "dsync.plugins.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.communicate(timeout=60) == (b"", b"")
    assert child.returncode == 0


async def test_a_secret_is_in_no_argument_and_no_log(runtime: Path) -> None:
    """It goes through a pipe: argv is everybody's to read, and the environment is inherited."""
    reference = f"memory://user:{SECRET}@host?password={SECRET}2"
    with capture_logs() as logs:
        async with opened(reference, runtime, log_level=10) as endpoint:
            process = psutil.Process(endpoint.pid)
            assert SECRET not in " ".join(process.cmdline())
            assert SECRET not in json.dumps(process.environ())
            assert SECRET not in repr(endpoint)
            assert endpoint.display == "memory://user:***@host?password=***"
    assert SECRET not in repr(logs)


async def test_a_secret_reference_is_resolved_by_the_plugin(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole URI may be a reference: it is known here by its name alone."""
    monkeypatch.setenv("DSYNC_TEST_URI", f"memory://{tmp_path}/d.sqlite?fill=a:3&password={SECRET}")
    async with opened("env:DSYNC_TEST_URI", runtime) as endpoint:
        assert (endpoint.display, endpoint.name) == ("env:DSYNC_TEST_URI", "source memory")
        assert await endpoint.connector.count("a") == 3


@pytest.mark.parametrize(
    ("reference", "cls", "message"),
    [
        ("memory://?fil=a:1", errors.OptionError, "did you mean fill"),
        ("memory://?record_bytes=1", errors.OptionError, "option record_bytes"),
        ("memory://?password=env:NOT_SET_ANYWHERE", errors.OptionError, "NOT_SET_ANYWHERE is not set"),
        (
            "dies://",
            errors.ServerUnavailableError,
            r"exited with code 3 .*: cannot load the driver; give the same command again",
        ),
        ("raises://u:canary-hunter22@h", errors.PluginBugError, r"raised KeyError$"),
        ("silent://", errors.DeadlineError, "did not start within 1 s"),
    ],
)
async def test_a_start_that_fails_says_why(
    runtime: Path, reference: str, cls: type[errors.DsyncError], message: str
) -> None:
    """With the class the plug-in gave it, without its exceptions' texts, and without a process left."""
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(cls, match=message) as caught:
        async with opened(reference, runtime, start_s=1.0 if reference == "silent://" else 10.0):
            pytest.fail("it was not to start")
    assert type(caught.value) is cls
    assert SECRET not in str(caught.value)
    assert set(psutil.Process().children(recursive=True)) == before


async def test_what_a_plugin_says_arrives_in_our_log(runtime: Path) -> None:
    """Its events with their level, what libraries log or print as text, and no secret in any of it."""
    redactor = Redactor()
    with capture_logs() as logs:
        async with open_endpoint(
            f"chatty://user:{SECRET}@host", registry=REGISTRY, runtime=runtime, label="sink", redactor=redactor
        ) as endpoint:
            await endpoint.connector.get_info()
    (spoke,) = [line for line in logs if line["event"] == "plugin_spoke"]
    assert spoke == {
        "event": "plugin_spoke",
        "log_level": "warning",
        "plugin": "sink chatty",
        "uri": "chatty://user:***@host",
    }
    (library,) = [line for line in logs if line["event"] == "library_logged"]
    assert library["message"] == "connecting to chatty://user:***@host"
    printed = [line["text"] for line in logs if line["event"] == "plugin_printed"]
    assert "printed on stdout chatty://user:***@host" in printed
    assert any("a warning about" in text for text in printed)
    assert SECRET not in repr(logs)
    # Our own log hides it from now on, too.
    assert redactor.text(f"x {SECRET}") == "x ***"


# ------------------------------------------------------------------- restart


async def test_a_killed_process_is_replaced_and_calls_recover(
    runtime: Path, tmp_path: Path, events: list[PluginEvent]
) -> None:
    """Calls in between are errors worth a retry; the successor knows the session before the first call."""
    with page_store(runtime, need_bytes=1) as pages:
        async with opened(f"memory://{tmp_path}/d.sqlite?fill=a:500&record_bytes=1000", runtime, events) as endpoint:
            connector = endpoint.connector
            await connector.open_session(
                SessionRequest(flow="f", page_directory=str(pages.directory), page_probe=pages.write_probe(b"x"))
            )
            first = endpoint.pid
            os.kill(first or 0, signal.SIGKILL)
            with pytest.raises(errors.ServerUnavailableError, match="source memory"):
                while True:
                    await connector.get_info()
            await recovered(endpoint)
            assert endpoint.pid != first
            (partition,) = (await connector.open_plan(["a"])).partitions
            page = await connector.read_page(ReadRequest(partition=partition, by_reference=True))
            assert page.ref is not None
    assert [event.kind for event in events] == ["died", "restarted"]
    assert events[0].reason == "ended with SIGKILL"


async def test_a_call_in_flight_ends_when_its_process_does(runtime: Path) -> None:
    """It is not left waiting for its deadline."""
    async with opened("memory://?fault=count@1:hang", runtime) as endpoint, asyncio.TaskGroup() as tasks:
        hanging = tasks.create_task(failure(endpoint.connector.count("a")))
        await wait_for_async(lambda: endpoint.connector.get_info(), what="an answer beside the hanging call")
        started = time.monotonic()
        os.kill(endpoint.pid or 0, signal.SIGKILL)
        assert isinstance(await hanging, errors.ServerUnavailableError)
        assert time.monotonic() - started < 5


async def test_what_was_durable_is_there_after_a_kill(runtime: Path, tmp_path: Path) -> None:
    """The process dies after the commit and before the answer: the ledger makes the repetition harmless."""
    reference = f"memory://{tmp_path}/d.sqlite?fault=write_page_answer@1:exit"
    async with opened(reference, runtime) as endpoint:
        connector = endpoint.connector
        (state,) = await connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
        context = WriteContext(flow="f", run="r", unit="u", fence=state.fence, cursor=b"c", seq=1)
        request = WriteRequest(
            namespace="a", page=Page(type=PageType.BSON, rows=1, packed=document(1)), context=context
        )
        with pytest.raises(errors.ServerUnavailableError):
            await connector.write_page(request)
        await recovered(endpoint)
        assert await connector.count("a") == 1
        assert await connector.write_page(request) == 1
        assert await connector.count("a") == 1


async def test_it_is_replaced_as_often_as_it_dies(runtime: Path, events: list[PluginEvent]) -> None:
    """With pauses that grow, so that a plug-in that cannot live does not take the machine along."""
    async with opened("memory://", runtime, events) as endpoint:
        for number in range(1, 4):
            os.kill(endpoint.pid or 0, signal.SIGKILL)
            await recovered(endpoint, number)
        assert (await endpoint.connector.get_info()).db_type == "memory"


async def test_a_stopped_process_is_noticed_within_the_deadline(runtime: Path) -> None:
    """A process that hangs answers nothing; the call ends with DeadlineError, and after SIGCONT all is well."""
    deadlines = Deadlines(contact_s=1.5)
    async with opened("memory://", runtime, deadlines=deadlines) as endpoint:
        process = psutil.Process(endpoint.pid)
        process.suspend()
        started = time.monotonic()
        with pytest.raises(errors.DeadlineError, match=r"did not answer GetInfo within 1\.5 s"):
            await endpoint.connector.get_info()
        assert time.monotonic() - started < 3
        process.resume()
        assert (await endpoint.connector.get_info()).db_type == "memory"
        assert endpoint.restarts == 0


async def test_a_hung_process_is_killed_and_replaced(runtime: Path, events: list[PluginEvent]) -> None:
    """Two questions without an answer in a row are enough."""
    patience = Patience(ask_every_s=0.2, answer_within_s=0.5)
    async with opened("memory://", runtime, events, patience=patience) as endpoint:
        first = endpoint.pid
        psutil.Process(first).suspend()
        await recovered(endpoint)
        assert is_gone(first)
        assert (await endpoint.connector.get_info()).db_type == "memory"
    assert [event.kind for event in events] == ["hung", "died", "restarted"]


async def test_a_busy_process_is_not_taken_for_a_hung_one(runtime: Path, events: list[PluginEvent]) -> None:
    """Computing for a while without a pause is slow, and no reason to lose what it was at."""
    patience = Patience(ask_every_s=0.1, answer_within_s=2.0)
    async with opened("spawning://", runtime, events, patience=patience) as endpoint:
        assert await endpoint.connector.count("1.5") == 0
    assert events == []


# ----------------------------------------------------------------------- end


async def test_the_end_leaves_nothing(runtime: Path) -> None:
    """Neither the process nor what it had started, nor its socket."""
    async with opened("spawning://", runtime) as endpoint:
        helper = int((await endpoint.connector.get_info()).id)
        pid = endpoint.pid
        assert not is_gone(helper)
    assert is_gone(pid)
    await wait_for_async(lambda: is_gone(helper), what="the end of the plug-in's helper")
    assert [path for path in runtime.rglob("*") if path.is_socket()] == []


async def test_what_a_dead_process_had_started_is_ended_too(runtime: Path) -> None:
    """A helper of a killed plug-in would go on working for nobody."""
    async with opened("spawning://", runtime) as endpoint:
        helper = int((await endpoint.connector.get_info()).id)
        os.kill(endpoint.pid or 0, signal.SIGKILL)
        await wait_for_async(lambda: is_gone(helper), what="the end of the plug-in's helper")


async def test_one_that_does_not_end_is_killed(runtime: Path) -> None:
    """After its grace; a user who wants to stop is not held up by a connection that does not close."""
    started = time.monotonic()
    async with opened("stubborn://", runtime, grace_s=0.5) as endpoint:
        pid = endpoint.pid
    assert is_gone(pid)
    assert time.monotonic() - started < 8


async def test_ctrl_c_is_not_for_the_plugin(runtime: Path) -> None:
    """The terminal sends it to everyone; what it means is the coordinator's decision."""
    async with opened("memory://", runtime) as endpoint:
        assert os.getpgid(endpoint.pid or 0) != os.getpgid(0)
        os.kill(endpoint.pid or 0, signal.SIGINT)
        assert (await endpoint.connector.get_info()).db_type == "memory"
        assert endpoint.restarts == 0


async def test_an_error_in_the_block_arrives_as_itself(runtime: Path) -> None:
    """Not wrapped in a group, and after everything was stopped."""
    with pytest.raises(errors.FencedError, match="ours"):
        async with opened("memory://", runtime) as endpoint:
            pid = endpoint.pid
            raise errors.FencedError("ours")
    assert is_gone(pid)


async def failure(call: Any) -> BaseException | None:
    try:
        await call
    except errors.DsyncError as exc:
        return exc
    return None


# ------------------------------------------------------------ the owner's end


@pytest.fixture
def owner() -> Iterator[Owner]:
    """A program with two plug-ins; killed at the latest when the test ends."""
    process = subprocess.Popen([sys.executable, "-m", "tests.contract.owner"], stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        try:
            assert process.stdout is not None
            report = json.loads(process.stdout.readline())
            yield Owner(process=process, pids=report["pids"], directories=[Path(d) for d in report["directories"]])
        finally:
            process.kill()


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The program, the processes of its plug-ins and of their helpers, and its private directories."""

    process: subprocess.Popen[bytes]
    pids: list[int]
    directories: list[Path]

    def all_are_gone(self) -> bool:
        return all(is_gone(pid) for pid in self.pids)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_no_process_outlives_its_owner(owner: Owner, stopped: bool) -> None:
    """The owner is killed with -9: its plug-ins and their helpers are gone soon, even one that is stopped."""
    if stopped:
        psutil.Process(owner.pids[0]).suspend()
    owner.process.kill()
    owner.process.wait()
    wait_for(owner.all_are_gone, timeout_s=20, what="the end of its plug-ins")
    assert all(directory.is_dir() for directory in owner.directories)
    for directory in owner.directories:
        sweep(directory.parent)
    assert not any(directory.exists() for directory in owner.directories)


def test_an_owner_that_is_told_to_end_leaves_no_process(owner: Owner) -> None:
    """SIGTERM without a handler: as -9, the kernel ends it at once."""
    owner.process.terminate()
    owner.process.wait()
    wait_for(owner.all_are_gone, timeout_s=20, what="the end of its plug-ins")
