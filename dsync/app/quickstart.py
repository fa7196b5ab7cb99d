"""`dsync quickstart`: two PostgreSQL servers of our own, a shop in one, copied to the other and verified."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from dsync.app.known import existing_store
from dsync.app.requests import SyncRequest
from dsync.app.sync import SyncOutcome, sync
from dsync.coordinator.events import EventHandler, PhaseChanged
from dsync.quickstart.sample import ShopSummary, create_shop
from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk.redaction import redact_uri, secrets_of_uri

T = TypeVar("T")

_DATABASE = "shop"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartRequest:
    rows: int = 100_000
    """About how many the shop gets."""
    keep: bool = False
    """Keep the servers running until the task is cancelled."""
    state: str = ""
    """Where the flow is remembered while it lasts; empty: in a file that goes with the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartReport:
    shop: ShopSummary
    outcome: SyncOutcome
    version: str
    """Of both servers, as in 18.4."""
    source: str
    """URIs without the password, which stands in `passfile`."""
    sink: str
    passfile: Path
    state: str
    """What `--state` is given; a password stands as ***."""


async def quickstart(
    request: QuickstartRequest,
    emit: EventHandler,
    *,
    hide: Callable[[Iterable[str]], None],
    on_report: Callable[[QuickstartReport], None],
) -> None:
    """Run it; servers, data and state are gone at the end, however it comes. `on_report` gets the result.

    `hide` is told the servers' passwords. With `keep` a cancellation after the report is the ordinary end.

    Raises:
        ServerError: PostgreSQL is not installed here, or does not start.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsync-quickstart-")))
        emit(PhaseChanged(phase="starting two PostgreSQL servers"))
        source, sink = await stack.enter_async_context(_two_servers())
        uris = [await _in_thread(partial(server.create_database, _DATABASE)) for server in (source, sink)]
        hide(secret for uri in uris for secret in secrets_of_uri(uri))
        emit(PhaseChanged(phase="filling a shop"))
        shop = await _fill(source, uris[0], request.rows)
        state = request.state or str(folder / "state.db")
        flow = f"quickstart-{secrets.token_hex(4)}" if request.state else ""
        if flow:
            stack.push_async_callback(asyncio.to_thread, _forget, state, flow)
        outcome = await sync(
            SyncRequest(source=uris[0], sink=uris[1], state=state, flow=flow, verify=True), emit, asyncio.Event()
        )
        on_report(
            QuickstartReport(
                shop=shop,
                outcome=outcome,
                version=".".join(map(str, source.version)),
                source=_without_password(uris[0]),
                sink=_without_password(uris[1]),
                passfile=_write_passfile(folder, uris),
                state=redact_uri(state),
            )
        )
        if request.keep:
            await _until_cancelled()


def _forget(state: str, flow: str) -> None:
    """A state that others use keeps nothing of a flow whose ends are gone."""
    with existing_store(state) as store:
        found = store.find_flow_by_name(flow) if store is not None else None
        if store is not None and found is not None:
            store.delete_flow(found.flow)


@asynccontextmanager
async def _two_servers() -> AsyncIterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """The newest version installed, twice, started at the same time."""
    servers = EmbeddedPostgres(), EmbeddedPostgres()
    try:
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                tasks.create_task(_in_thread(server.start))
        yield servers
    finally:
        for server in servers:
            await asyncio.shield(_in_thread(server.close))


async def _fill(server: EmbeddedPostgres, uri: str, rows: int) -> ShopSummary:
    """The shop, unless we are cancelled: then the server is killed under it, which ends the thread at once."""
    return await _in_thread(partial(create_shop, uri, rows=rows), hurry=server.kill)


async def _in_thread(action: Callable[[], T], *, hurry: Callable[[], None] = lambda: None) -> T:
    """Blocking work that is waited for even when we are cancelled, because what follows closes what it works on.

    `hurry` makes it end sooner then.
    """
    working = asyncio.ensure_future(asyncio.to_thread(action))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.to_thread(hurry)
        await asyncio.wait([working])
        # Looked at, so that nobody reports what we have brought about ourselves.
        working.exception()
        raise


async def _until_cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None, "coroutines run in tasks"
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task.uncancel()


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}").geturl()


def _write_passfile(folder: Path, uris: Iterable[str]) -> Path:
    """For libpq (PGPASSFILE), so that no password needs to be printed."""
    path = folder / "pgpass"
    lines = []
    for uri in uris:
        parts = urlsplit(uri)
        password = unquote(parts.password or "").replace("\\", "\\\\").replace(":", "\\:")
        lines.append(f"{parts.hostname}:{parts.port}:*:{parts.username}:{password}\n")
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.writelines(lines)
    return path
