"""Every error becomes one exit code and one sentence."""

import asyncio
import signal

import click
import pytest

from dsync.cli.failures import InterruptedRunError, explain
from dsync.cli.sizes import parse_size
from dsync.coordinator.plan import CheckFailedError
from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import (
    DsyncError,
    NamespaceChangedError,
    OptionError,
    PermanentError,
    PluginBugError,
    RecordError,
    ServerUnavailableError,
    SinkNotEmptyError,
    UnsupportedError,
)
from dsync.protocol.types import Finding, Severity
from dsync.quickstart.installations import ServerError
from dsync.state import FlowNotFoundError, LeaseHeldError, StateCorruptError


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (click.UsageError("no"), 2),
        (OptionError("no"), 2),
        (SinkNotEmptyError("no"), 2),
        (FlowNotFoundError("no"), 2),
        (ServerUnavailableError("no"), 3),
        (PermanentError("no"), 3),
        (UnsupportedError("no"), 3),
        (LeaseHeldError("no"), 3),
        (StateCorruptError("no"), 3),
        (ServerError("no"), 3),
        (CheckFailedError("no"), 3),
        (RecordError("no"), 5),
        (NamespaceChangedError("no"), 6),
        (PluginBugError("no"), 1),
        (DsyncError("no"), 1),
        (ValueError("no"), 1),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (InterruptedRunError(signal.SIGINT, "so far"), 130),
        (InterruptedRunError(signal.SIGTERM, "so far"), 143),
    ],
)
def test_an_error_says_whose_move_it_is(error: BaseException, exit_code: int) -> None:
    """2: the request's; 3: the environment's; 1: ours; above 128: a signal's."""
    failure = explain(error)

    assert failure.exit_code == exit_code
    assert failure.message


async def test_of_several_errors_the_worst_is_reported() -> None:
    """A bug before the environment before the request."""

    async def fail(error: Exception) -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(ServerUnavailableError) as raised:
        async with task_group() as tasks:
            for error in (OptionError("two"), ServerUnavailableError("three"), NamespaceChangedError("six")):
                tasks.create_task(fail(error))
    assert explain(raised.value).exit_code == 3
    assert explain(ExceptionGroup("several", [OptionError("two"), ValueError("one")])).exit_code == 1


def test_a_bug_names_its_place_and_not_what_it_choked_on() -> None:
    """The text of an unexpected exception may quote a record; -v shows it to whoever asks."""
    with pytest.raises(ValueError, match="a record's content") as raised:
        parse_size("a record's content")
    failure = explain(raised.value)

    assert "in dsync/cli/sizes.py:" in failure.message
    assert "ValueError" in failure.headline
    assert "-v" in failure.headline
    assert "content" not in failure.headline
    assert "a record's content" in failure.traceback


def test_findings_come_along() -> None:
    """For scripts: what stops a flow is data."""
    finding = Finding(
        code="row-security", severity=Severity.STOP, object="shop.a", message="hides rows", remedy="grant"
    )
    failure = explain(CheckFailedError("shop.a: hides rows", [finding]))

    assert failure.more == {
        "findings": [
            {
                "code": "row-security",
                "severity": "stop",
                "object": "shop.a",
                "message": "hides rows",
                "remedy": "grant",
            }
        ]
    }
