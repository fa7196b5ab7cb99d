"""The two ends of a flow as negotiated: what each can do, and what they have agreed upon."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from dsync.coordinator.spec import FlowSpec
from dsync.protocol.errors import DsyncError, OtherEndpointError, UnsupportedError
from dsync.protocol.interface import Connector, services_of
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import Extensions, Info, Page, PageType, ReadRequest, Role, SessionRequest, WriteRequest

MIB = 1024 * 1024
MAX_MESSAGE_BYTES = 64 * MIB
UNDECLARED_MESSAGE_BYTES = 4 * MIB
"""What a peer that declares nothing takes: the default of gRPC in most languages."""

CHEAPEST_FIRST = (PageType.PG_COPY_BINARY, PageType.PG_COPY_TEXT, PageType.BSON, PageType.JSON)


@dataclass(slots=True, kw_only=True)
class End:
    """A connector with what it said of itself."""

    role: Role
    connector: Connector
    info: Info
    extensions: Extensions
    _session: SessionRequest | None = field(default=None, init=False)

    @classmethod
    async def meet(cls, connector: Connector, role: Role) -> End:
        """Ask who this is.

        Raises:
            UnsupportedError: it cannot play this role.
        """
        info = await connector.get_info()
        extensions = await connector.get_extensions()
        if extensions != Extensions() and not extensions.services:
            # In process, what a connector's class overrides is what it serves.
            extensions = replace(extensions, services=services_of(connector))
        end = cls(role=role, connector=connector, info=info, extensions=extensions)
        if (info.source if role is Role.SOURCE else info.sink) is None:
            raise UnsupportedError(f"{info.db_type} cannot be a {role.name.lower()}")
        return end

    def serves(self, service: str) -> bool:
        return service in self.extensions.services

    @property
    def speaks_dsync(self) -> bool:
        """It answered GetExtensions with something."""
        return self.extensions != Extensions()

    @property
    def page_types(self) -> frozenset[PageType]:
        """What it reads (a source) or writes (a sink)."""
        if self.role is Role.SOURCE:
            declared = self.info.source.data_types if self.info.source else ()
            return frozenset((*declared, *self.extensions.read_types))
        declared = self.info.sink.data_types if self.info.sink else ()
        return frozenset((*declared, *self.extensions.write_types))

    @property
    def max_message_bytes(self) -> int:
        return min(self.extensions.max_message_bytes or UNDECLARED_MESSAGE_BYTES, MAX_MESSAGE_BYTES)

    async def open_session(self, request: SessionRequest) -> bytes:
        """Tell the plug-in about the flow; returns what it read from the page probe."""
        self._session = request
        if not self.speaks_dsync:
            return b""
        try:
            return await self.connector.open_session(request)
        except UnsupportedError:
            return b""

    async def reopen_session(self) -> None:
        """Tell it again: a plug-in that was restarted has forgotten. Orphans are ended, they may be its own."""
        if self._session is not None:
            await self.open_session(self._session)

    async def read(self, request: ReadRequest) -> Page:
        if self.serves("PageService"):
            return await self.connector.read_page(request)
        return await self.connector.list_data(request)

    async def write(self, request: WriteRequest) -> int:
        if self.serves("PageService"):
            return await self.connector.write_page(request)
        await self.connector.write_data(request)
        return request.page.rows

    def check_same(self, known_id: str) -> None:
        """Raises OtherEndpointError where this is not the endpoint an earlier run has met."""
        if known_id and self.info.id and known_id != self.info.id:
            raise OtherEndpointError(
                f"the {self.role.name.lower()} is another server or database than the one this flow was started with "
                f"(it was {known_id}, it is {self.info.id}); point the URI at that one, or name a new flow with --flow"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What both ends can do."""

    page_types: tuple[PageType, ...]
    """Shared, cheapest first."""
    by_reference: bool
    page_bytes: int
    max_page_bytes: int


def negotiate(source: End, sink: End, spec: FlowSpec) -> Agreement:
    """The cheapest page types, and the sizes, that both ends take.

    Raises:
        UnsupportedError: they share no type, or not the one that was asked for.
    """
    shared = tuple(kind for kind in CHEAPEST_FIRST if kind in source.page_types and kind in sink.page_types)
    if shared and spec.data_type != "auto":
        wanted = PageType[spec.data_type.upper().replace("-", "_")]
        if wanted not in shared:
            raise UnsupportedError(
                f"--data-type {spec.data_type}: {source.info.db_type} and {sink.info.db_type} do not both speak it; "
                f"they share {_names(frozenset(shared))}"
            )
        shared = (wanted,)
    if not shared:
        raise UnsupportedError(
            f"{source.info.db_type} and {sink.info.db_type} speak no common type: the source offers "
            f"{_names(source.page_types)}, the sink takes {_names(sink.page_types)}"
        )
    most = min(source.max_message_bytes, sink.max_message_bytes)
    # Room for the message around the page.
    max_page_bytes = most - most // 64
    return Agreement(
        page_types=shared,
        by_reference=source.extensions.page_refs and sink.extensions.page_refs,
        page_bytes=min(spec.page_bytes, max_page_bytes),
        max_page_bytes=max_page_bytes,
    )


def _names(page_types: frozenset[PageType]) -> str:
    return ", ".join(sorted(kind.name for kind in page_types)) or "nothing"


async def open_sessions(
    source: End, sink: End, agreement: Agreement, pages: PageStore | None, request: SessionRequest
) -> Agreement:
    """Open both sessions; pages travel by reference only if both ends could read our probe file."""
    token = b""
    if agreement.by_reference and pages is not None:
        token = secrets.token_bytes(16)
        request = replace(request, page_directory=str(pages.directory), page_probe=pages.write_probe(token))
    seen = [
        await end.open_session(
            replace(
                request,
                role=end.role,
                max_message_bytes=agreement.max_page_bytes,
                # What arrives is what has met them already.
                row_filters=request.row_filters if end is source else {},
            )
        )
        for end in (source, sink)
    ]
    return replace(agreement, by_reference=bool(token) and all(content == token for content in seen))


async def close_quietly(connector: Connector) -> DsyncError | None:
    """Close, and hand back rather than raise what went wrong: the run's own error matters more."""
    try:
        await connector.close()
    except DsyncError as exc:
        return exc
    return None
