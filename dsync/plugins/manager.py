"""From an endpoint, as a user writes it, to a connector that can be called."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dsync.plugins.endpoint import PluginEndpoint, parse_endpoint
from dsync.plugins.hosting import host_connector
from dsync.plugins.process import Launch
from dsync.plugins.registry import Registry
from dsync.plugins.supervision import Patience, PluginEvent, Supervisor, background
from dsync.protocol.channel import Deadlines
from dsync.protocol.client import RemoteConnector
from dsync.protocol.inline import InlineConnector
from dsync.protocol.interface import Connector
from dsync.sdk.redaction import Redactor, secrets_of_uri

Attach = Literal["process", "inline"]

_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEndpoint:
    """A connector that is ready to be called, in whichever way it is reached."""

    connector: Connector
    name: str
    """"source postgres", "sink grpc://host:port": for messages."""
    display: str
    """The reference without secrets."""
    supervisor: Supervisor | None = None
    """Of its process; None where it has none of ours."""

    @property
    def pid(self) -> int | None:
        process = self.supervisor.process if self.supervisor else None
        return process.pid if process else None

    @property
    def restarts(self) -> int:
        return self.supervisor.restarts if self.supervisor else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How endpoints are opened; the same for all of a run."""

    attach: Attach = "process"
    allow_plaintext: bool = False
    application_name: str = "dsync"
    deadlines: Deadlines = field(default_factory=Deadlines)
    patience: Patience = field(default_factory=Patience)
    start_s: float = 10.0
    grace_s: float = 10.0
    log_level: int = 20


def _ignore(event: PluginEvent) -> None:
    """Nobody asked to be told."""


@asynccontextmanager
async def open_endpoint(
    reference: str,
    *,
    registry: Registry,
    runtime: Path,
    label: str = "",
    options: Mapping[str, str] | None = None,
    settings: OpenOptions | None = None,
    redactor: Redactor | None = None,
    on_event: Callable[[PluginEvent], None] = _ignore,
) -> AsyncIterator[OpenEndpoint]:
    """Start or reach the connector behind `reference`, for the length of the block.

    `runtime` is the run's private directory (`dsync.plugins.runtime`), `label` the role ("source"), `options` those
    given beside the URI, `redactor` the one of our own log, which learns the secrets of the URI. A process that dies
    is replaced; `on_event` is told. Calls in between raise ServerUnavailableError.

    Raises:
        RequestError: the reference or an option is wrong.
        MissingObjectError: the connector needs something that is not installed.
        RetryableError: the process does not start.
    """
    settings = settings or OpenOptions()
    redactor = redactor or Redactor()
    redactor.add(secrets_of_uri(reference))
    endpoint = parse_endpoint(reference, registry, allow_plaintext=settings.allow_plaintext)
    async with AsyncExitStack() as stack:
        if not isinstance(endpoint, PluginEndpoint):
            redactor.add({endpoint.target.token})
            name = _name(label, endpoint.target.name)
            connector: Connector = RemoteConnector(endpoint.target, deadlines=settings.deadlines)
            stack.push_async_callback(connector.close)
            yield OpenEndpoint(connector=connector, name=name, display=endpoint.display)
            return

        name = _name(label, endpoint.entry.name)
        directory = _own_directory(runtime)
        if settings.attach == "inline":
            connector = _inline(endpoint, name, directory, options, settings, redactor)
            stack.push_async_callback(connector.close)
            yield OpenEndpoint(connector=connector, name=name, display=endpoint.display)
            return

        launch = Launch(
            spec=endpoint.entry.reference,
            reference=endpoint.reference,
            name=name,
            options=options or {},
            application_name=settings.application_name,
            log_level=settings.log_level,
            start_s=settings.start_s,
            grace_s=settings.grace_s,
        )
        supervisor = Supervisor(
            launch, directory=directory, redactor=redactor, patience=settings.patience, on_event=on_event
        )
        target = await supervisor.start()
        stack.push_async_callback(supervisor.close)
        remote = RemoteConnector(target, deadlines=settings.deadlines)
        async with background(supervisor.run(remote.move), linger_s=_LAST_WORDS_S):
            try:
                yield OpenEndpoint(connector=remote, name=name, display=endpoint.display, supervisor=supervisor)
            finally:
                await remote.close()
                await supervisor.stop()


def _name(label: str, what: str) -> str:
    return f"{label} {what}" if label else what


def _own_directory(runtime: Path) -> Path:
    """A plug-in's part of the run's directory; its name is short, because a socket's path may not be long."""
    directory = runtime / secrets.token_hex(3)
    directory.mkdir(mode=0o700)
    return directory


def _inline(
    endpoint: PluginEndpoint,
    name: str,
    directory: Path,
    options: Mapping[str, str] | None,
    settings: OpenOptions,
    redactor: Redactor,
) -> Connector:
    assert endpoint.entry.spec is not None
    hosted = host_connector(
        endpoint.entry.spec,
        endpoint.reference,
        options=options,
        private_directory=directory,
        application_name=settings.application_name,
    )
    redactor.add(hosted.secrets)
    return InlineConnector(hosted.connector, name=name, deadlines=settings.deadlines)
