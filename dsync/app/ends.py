"""Both ends of a flow, opened: plug-ins started or reached, and asked who they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dsync.app.requests import EndsRequest
from dsync.coordinator.ends import Agreement, End, negotiate, open_sessions
from dsync.coordinator.plan import row_filters
from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.coordinator.tasks import task_group
from dsync.plugins.manager import OpenEndpoint, OpenOptions, open_endpoint
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import page_store, runtime_directory
from dsync.plugins.supervision import PluginEvent
from dsync.protocol.errors import DeadlineError, RequestError
from dsync.protocol.namespaces import split_filters
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import Role, SessionRequest
from dsync.sdk.redaction import Redactor
from dsync.sdk.references import is_reference, resolve
from dsync.state import DEFAULT_SINK, RunRow

FIRST_CONTACT_S = 10.0
_PAGES_NEED_BYTES = 256 * 1024 * 1024
"""Shared memory is used for pages where at least this much of it is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    source: End
    sink: End
    source_identity: EndpointIdentity
    sink_identity: EndpointIdentity
    pages: PageStore | None

    def refuse_same_ends(self) -> None:
        """Raises RequestError where both references name one place; a sink may know better when it prepares."""
        if self.source_identity.address and self.source_identity.address == self.sink_identity.address:
            raise RequestError(
                f"source and sink are the same: {self.source_identity.address}; name another database as the sink"
            )

    def refuse_other_ends(self, runs: Iterable[RunRow]) -> None:
        """Raises OtherEndpointError where a run of the flow has met another source or sink than these.

        All runs are asked: one that was cut off early may have met nobody.
        """
        for run in runs:
            self.source.check_same(run.source_id)
            self.sink.check_same(run.sink_ids.get(DEFAULT_SINK, ""))

    async def agree(self, spec: FlowSpec, *, flow: str, run: str, end_orphans: bool) -> Agreement:
        """Negotiate, and tell both ends of the flow; `end_orphans`: what an earlier life of it still runs is ended."""
        agreement = negotiate(self.source, self.sink, spec)
        request = SessionRequest(
            flow=flow,
            run=run,
            page_bytes=agreement.page_bytes,
            memory_bytes=spec.memory_limit,
            parallel=spec.parallel,
            end_orphans=end_orphans,
            row_filters=await row_filters(self.source, spec.selection, spec.filters),
        )
        return await open_sessions(self.source, self.sink, agreement, self.pages, request)


def identity_of(reference: str, display: str) -> EndpointIdentity:
    """Which endpoint a reference means: scheme, host, port and path, where it names a host and a path."""
    parts = urlsplit(resolve(reference, what="an endpoint") if is_reference(reference) else reference)
    place = parts.netloc.rpartition("@")[2].lower()
    path = parts.path.strip("/")
    is_remote = parts.scheme in ("grpc", "grpcs")
    address = f"{parts.scheme}://{place}/{path}" if place and (path or is_remote) else ""
    return EndpointIdentity(reference=display, address=address)


@contextmanager
def _naming(role: Role) -> Iterator[None]:
    """Say which end a wrong request is about: both may be written alike."""
    try:
        yield
    except RequestError as exc:
        raise type(exc)(f"{role.name.lower()}: {exc}") from exc


async def _at_once() -> None:
    """There is no other end to wait for."""


@asynccontextmanager
async def open_connector(
    reference: str,
    role: Role,
    request: EndsRequest,
    *,
    runtime: Path,
    redactor: Redactor | None = None,
    on_event: Callable[[PluginEvent], None] = lambda _: None,
    before_contact: Callable[[], Awaitable[object]] = _at_once,
) -> AsyncIterator[tuple[End, OpenEndpoint]]:
    """One end, started and asked who it is: the first contact fails within 10 s where its server is down.

    `before_contact` is awaited when reference and options have been found right, and no server has been asked.
    """
    settings = OpenOptions(attach=request.attach, allow_plaintext=request.allow_plaintext)
    endpoint = open_endpoint(
        reference,
        registry=Registry.installed(),
        runtime=runtime,
        label=role.name.lower(),
        settings=settings,
        redactor=redactor,
        on_event=on_event,
    )
    async with AsyncExitStack() as stack:
        with _naming(role):
            opened = await stack.enter_async_context(endpoint)
        await before_contact()
        try:
            async with asyncio.timeout(FIRST_CONTACT_S):
                end = await End.meet(opened.connector, role)
        except TimeoutError as exc:
            raise DeadlineError(
                f"{opened.name} ({opened.display}) did not say who it is within {FIRST_CONTACT_S:g} s; "
                "is its server reachable?"
            ) from exc
        yield end, opened


@asynccontextmanager
async def opening(
    request: EndsRequest,
    *,
    redactor: Redactor | None = None,
    on_event: Callable[[PluginEvent], None] = lambda _: None,
) -> AsyncIterator[Callable[[], Awaitable[Meeting]]]:
    """Start both ends at once, and go on with other work meanwhile: what is yielded waits for them.

    On leaving, both plug-ins have ended and their private files are gone.
    """
    # Its patterns are read before anybody is started for them.
    _ = request.selection
    split_filters(request.filters)
    with ExitStack() as stack:
        runtime = stack.enter_context(runtime_directory())
        pages = None
        if request.attach == "process":
            pages = stack.enter_context(page_store(runtime, need_bytes=_PAGES_NEED_BYTES))
        leaving = asyncio.Event()
        # A request that is wrong at one end contacts neither.
        both_right = asyncio.Barrier(2)

        async def hold(reference: str, role: Role, ready: asyncio.Future[tuple[End, OpenEndpoint]]) -> None:
            async with open_connector(
                reference,
                role,
                request,
                runtime=runtime,
                redactor=redactor,
                on_event=on_event,
                before_contact=both_right.wait,
            ) as opened:
                ready.set_result(opened)
                await leaving.wait()

        loop = asyncio.get_running_loop()
        source_ready: asyncio.Future[tuple[End, OpenEndpoint]] = loop.create_future()
        sink_ready: asyncio.Future[tuple[End, OpenEndpoint]] = loop.create_future()

        async def met() -> Meeting:
            source, source_opened = await source_ready
            sink, sink_opened = await sink_ready
            return Meeting(
                source=source,
                sink=sink,
                source_identity=identity_of(request.source, source_opened.display),
                sink_identity=identity_of(request.sink, sink_opened.display),
                pages=pages,
            )

        # A connector is closed by the task that opened it; where one cannot be opened, the group ends the block.
        async with task_group() as tasks:
            tasks.create_task(hold(request.source, Role.SOURCE, source_ready))
            tasks.create_task(hold(request.sink, Role.SINK, sink_ready))
            try:
                yield met
            finally:
                leaving.set()


@asynccontextmanager
async def meet(
    request: EndsRequest,
    *,
    redactor: Redactor | None = None,
    on_event: Callable[[PluginEvent], None] = lambda _: None,
) -> AsyncIterator[Meeting]:
    """Both ends, once they have said who they are."""
    async with opening(request, redactor=redactor, on_event=on_event) as met:
        yield await met()
