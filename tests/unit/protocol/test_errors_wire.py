"""Errors cross gRPC with class and message, and with nothing else."""

from __future__ import annotations

import pytest
from grpc import StatusCode, aio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dsync.protocol import errors
from dsync.protocol.errors_wire import from_rpc, to_wire, unexpected

ALL = sorted(
    {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.DsyncError)},
    key=lambda cls: cls.__name__,
)


class WornOutError(errors.CursorExpiredError):
    """A plug-in's own class, with a constructor of its own."""

    def __init__(self, slot: str, server: str) -> None:
        super().__init__(f"{slot} at {server} is gone")


def received(error: errors.DsyncError) -> aio.AioRpcError:
    wire = to_wire(error)
    return aio.AioRpcError(wire.status, aio.Metadata(), aio.Metadata(*wire.metadata), details=wire.details)


def rebuilt(error: aio.AioRpcError) -> errors.DsyncError:
    return from_rpc(error, method="ReadPage", peer="source postgres", timeout_s=5)


def bare(status: StatusCode, details: str = "") -> errors.DsyncError:
    return rebuilt(aio.AioRpcError(status, aio.Metadata(), aio.Metadata(), details=details))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_class_arrives_as_itself(cls: type[errors.DsyncError]) -> None:
    """The class says what to do next, so the other side needs exactly that class, and the text for a person."""
    error = rebuilt(received(cls("größe – übermäßig 💥")))
    assert type(error) is cls
    assert str(error) == "größe – übermäßig 💥"


def test_a_class_with_its_own_constructor_arrives() -> None:
    """The text is what travels; the arguments it was made from need not be known."""
    error = rebuilt(received(WornOutError("s1", "db")))
    assert type(error) is WornOutError
    assert str(error) == "s1 at db is gone"


def test_a_class_only_the_plugin_knows_arrives_as_its_nearest_base() -> None:
    """The coordinator acts on the family; a subclass of another process's module is still of that family."""
    error = received(errors.CursorExpiredError("gone"))
    names = ("dsync-error-class", "NobodyKnowsError,CursorExpiredError,ReplanError,DsyncError")
    message = error.trailing_metadata()["dsync-error-message-bin"]
    foreign = aio.AioRpcError(error.code(), aio.Metadata(), aio.Metadata(names, ("dsync-error-message-bin", message)))
    assert type(rebuilt(foreign)) is errors.CursorExpiredError


@given(st.text(max_size=20_000))
def test_texts_are_bounded_and_safe_for_any_peer(text: str) -> None:
    """gRPC refuses metadata from 8 KiB on; the status text is printable ASCII because some peers show it raw."""
    wire = to_wire(errors.PermanentError(text))
    assert len(wire.details) <= 1000
    assert wire.details.isascii()
    assert wire.details == "" or wire.details.isprintable()
    size = sum(len(key) + len(value) for key, value in wire.metadata)
    assert size < 4096
    message = dict(wire.metadata)["dsync-error-message-bin"]
    assert isinstance(message, bytes)
    assert text.encode("utf-8", "replace").startswith(message.removesuffix(" …".encode()))


def test_an_unexpected_exception_gives_away_its_class_alone() -> None:
    """Its text may hold a record or a password: neither the caller nor the log gets to see it."""
    try:
        raise KeyError("alice@example.org")
    except KeyError as exc:
        with capture_logs() as logs:
            error = unexpected(exc, "WritePage")
    assert type(error) is errors.PluginBugError
    assert "KeyError" in str(error)
    assert "alice" not in str(error) + repr(logs)
    assert logs[0]["event"] == "plugin_failed_unexpectedly"
    assert "test_an_unexpected_exception" in logs[0]["frames"][0]


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (StatusCode.UNAVAILABLE, errors.RetryableError),
        (StatusCode.ABORTED, errors.RetryableError),
        (StatusCode.RESOURCE_EXHAUSTED, errors.RetryableError),
        (StatusCode.DEADLINE_EXCEEDED, errors.RetryableError),
        (StatusCode.UNIMPLEMENTED, errors.UnsupportedError),
        (StatusCode.INVALID_ARGUMENT, errors.RequestError),
        (StatusCode.UNAUTHENTICATED, errors.AuthenticationError),
        (StatusCode.INTERNAL, errors.PermanentError),
        (StatusCode.UNKNOWN, errors.PermanentError),
    ],
)
def test_a_bare_status_is_judged_by_the_contract(status: StatusCode, cls: type[errors.DsyncError]) -> None:
    """A foreign peer sends no class: four codes are worth a retry, the others are not."""
    error = bare(status, "went wrong")
    assert isinstance(error, cls)
    assert "source postgres" in str(error)


@pytest.mark.parametrize(
    "details",
    [
        "CLIENT: Received message larger than max (70000000 vs. 67108864)",
        "Sent message larger than max (70000000 vs. 67108864)",
    ],
)
def test_a_message_over_the_limit_names_both_sizes(details: str) -> None:
    """It is no throttling: the same message is too large the next time too."""
    error = bare(StatusCode.RESOURCE_EXHAUSTED, details)
    assert type(error) is errors.CapacityError
    assert "70,000,000" in str(error)
    assert "67,108,864" in str(error)


def test_a_deadline_says_who_and_how_long() -> None:
    """The operator is told which peer kept silent, and for how long."""
    assert str(bare(StatusCode.DEADLINE_EXCEEDED)) == "source postgres did not answer ReadPage within 5 s"


@pytest.mark.parametrize(
    ("status", "details"),
    [(StatusCode.CANCELLED, "server shutdown"), (StatusCode.INTERNAL, "Received RST_STREAM with error code 2")],
)
def test_a_connection_that_was_cut_is_worth_a_retry(status: StatusCode, details: str) -> None:
    """Proxies and stopping servers end calls with codes that look final and are not."""
    assert type(bare(status, details)) is errors.ServerUnavailableError


@pytest.mark.parametrize("change", [0, 7])
def test_a_refused_change_is_named_by_its_place(change: int) -> None:
    """What stands around it is written without it; of a page or a set nobody says a place."""
    error = rebuilt(received(errors.RecordError("no").at(change)))
    assert isinstance(error, errors.RecordError)
    assert error.change == change
    nameless = rebuilt(received(errors.RecordError("no")))
    assert isinstance(nameless, errors.RecordError)
    assert nameless.change < 0
