"""A connector that is read from: what it has declared, its plans and its pages."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from dsync.conformance.options import ExamineOptions
from dsync.conformance.outcomes import FailedError, SkippedError, expect
from dsync.conformance.records import Id, digest, id_of
from dsync.conformance.watched import Watched
from dsync.protocol import pages
from dsync.protocol.errors import UnsupportedError
from dsync.protocol.interface import Connector
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import (
    DescribeRequest,
    Extensions,
    Info,
    Page,
    PageType,
    Partition,
    PlanRequest,
    ReadRequest,
    Role,
    SessionRequest,
)

RECORD_TYPES = (PageType.BSON, PageType.JSON)
_SESSION_PAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPage:
    """What is remembered of a page: enough to compare it, and no content."""

    rows: int
    size_bytes: int
    digest: bytes
    ids: tuple[Id | None, ...]
    """None for what is no record of its type."""
    next_cursor: bytes

    @property
    def is_last(self) -> bool:
        return not self.next_cursor


class Reading:
    """A connector, in process or behind a channel, with what it says of itself."""

    def __init__(
        self, connector: Connector, info: Info, extensions: Extensions, options: ExamineOptions | None = None
    ) -> None:
        self.connector = Watched(connector)
        self.info = info
        self.extensions = extensions
        self.options = options or ExamineOptions()
        self.flow = f"conformance-{secrets.token_hex(4)}"
        """The flow that dsync.v1's services are told of; it is forgotten at the end."""
        self.has_ledger = False
        """The sink's ledger knows of the flow."""
        self._names: tuple[str, ...] | None = None
        self._session: SessionRequest | None = None

    def serves(self, service: str) -> bool:
        return service in self.extensions.services

    @property
    def read_type(self) -> PageType:
        """The type that records are read in.

        Raises:
            SkippedError: it declares neither BSON nor JSON.
        """
        return _first(self.info.source.data_types if self.info.source else (), "reads")

    # ---------------------------------------------------------------- planning

    async def namespaces(self) -> tuple[str, ...]:
        """Those that are read.

        Raises:
            SkippedError: none were named, and the source cannot name any.
        """
        if self._names is None:
            self._names = self.options.namespaces or await self._find_namespaces()
        if not self._names:
            raise SkippedError("no namespace to read: name some that hold records")
        return self._names

    async def _find_namespaces(self) -> tuple[str, ...]:
        if self.info.source is not None and self.info.source.default_plan:
            plan = await self.connector.generate_plan(PlanRequest(namespaces=()))
            # Full ones first, as far as the source estimates.
            ordered = sorted(plan.partitions, key=lambda partition: partition.estimated_count == 0)
            return tuple(dict.fromkeys(partition.namespace for partition in ordered))[: self.options.max_namespaces]
        if self.serves("SchemaService"):
            described = await self.connector.describe(DescribeRequest())
            names = [item.namespace for item in described.namespaces if not item.rowless]
            return tuple(names[: self.options.max_namespaces])
        return ()

    async def plan(self, *namespaces: str) -> tuple[Partition, ...]:
        """Partitions of these namespaces, or of all that are read; at most `max_partitions` of each."""
        names = namespaces or await self.namespaces()
        assert self.info.source is not None, "a check of a source needs one"
        if self.info.source.multi_namespace_plan:
            plans = [await self.connector.generate_plan(PlanRequest(namespaces=names))]
        else:
            plans = [await self.connector.generate_plan(PlanRequest(namespaces=(name,))) for name in names]
        counts: dict[str, int] = {}
        chosen = []
        for partition in (partition for plan in plans for partition in plan.partitions):
            counts[partition.namespace] = counts.get(partition.namespace, 0) + 1
            if counts[partition.namespace] <= self.options.max_partitions:
                chosen.append(partition)
        return tuple(chosen)

    # ----------------------------------------------------------------- reading

    async def read(self, partition: Partition, cursor: bytes = b"", *, type: PageType | None = None) -> SeenPage:
        """One page, by ListData."""
        page_type = self.read_type if type is None else type
        page = await self.connector.list_data(ReadRequest(partition=partition, type=page_type, cursor=cursor))
        return seen(page)

    async def read_all(self, partition: Partition, *, cursor: bytes = b"") -> list[SeenPage]:
        """The pages of a partition from a cursor on, at most `max_pages`.

        Raises:
            FailedError: a cursor comes again, so there is no end.
        """
        found = [await self.read(partition, cursor)]
        cursors = {cursor}
        while found[-1].next_cursor and len(found) < self.options.max_pages:
            if found[-1].next_cursor in cursors:
                raise FailedError(
                    expected=f"{partition.namespace}: every page of a partition comes with another cursor",
                    seen=f"page {len(found)} comes with a cursor that an earlier one had",
                )
            cursors.add(found[-1].next_cursor)
            found.append(await self.read(partition, found[-1].next_cursor))
        return found

    async def filled(self) -> list[tuple[Partition, list[SeenPage]]]:
        """Freshly planned partitions that hold records, each with its pages.

        Raises:
            SkippedError: there are none.
        """
        found = [(partition, await self.read_all(partition)) for partition in await self.plan()]
        found = [(partition, its) for partition, its in found if any(page.rows for page in its)]
        if not found:
            names = ", ".join(await self.namespaces())
            raise SkippedError(f"{names}: no records; put some in, or name other namespaces")
        return found

    # ---------------------------------------------------------------- dsync.v1

    async def open_session(self, role: Role, *, page_bytes: int = _SESSION_PAGE_BYTES) -> SessionRequest:
        """Tell the connector of a flow, as a coordinator does before it uses dsync.v1."""
        limit = self.extensions.max_message_bytes or SessionRequest().max_message_bytes
        wanted = SessionRequest(
            flow=self.flow, run="r", role=role, page_bytes=page_bytes, max_message_bytes=limit, parallel=2
        )
        if wanted != self._session:
            # Where there is nothing to agree upon, whatever it serves works without.
            with contextlib.suppress(UnsupportedError):
                await self.connector.open_session(wanted)
            self._session = wanted
        return wanted

    async def open_shared_session(self, role: Role) -> PageStore:
        """Agree upon pages by reference; gives the folder that both ends read.

        Raises:
            SkippedError: they are not declared, or there is no folder that both can read.
            FailedError: the connector says that it has read what it has not.
        """
        store = self.options.pages
        if not self.extensions.page_refs:
            raise SkippedError("it does not declare pages by reference")
        if store is None:
            raise SkippedError("pages by reference are tried between processes of one machine only")
        session = await self.open_session(role)
        content = secrets.token_bytes(16)
        self._session = dataclasses.replace(
            session, page_directory=str(store.directory), page_probe=store.write_probe(content)
        )
        read = await self.connector.open_session(self._session)
        if not read:
            raise SkippedError("it cannot read our page directory, as on another machine")
        expect(read == content, expected="OpenSession answers with what the probe's file holds", seen="something else")
        return store

    async def read_page(
        self,
        partition: Partition,
        cursor: bytes = b"",
        *,
        type: PageType | None = None,
        by_reference: bool = False,
    ) -> Page:
        """One page, by ReadPage."""
        kind = self.read_type if type is None else type
        request = ReadRequest(partition=partition, type=kind, cursor=cursor, by_reference=by_reference)
        return await self.connector.read_page(request)


def seen(page: Page) -> SeenPage:
    """A page as it is remembered."""
    records = list(pages.records_of(page))
    return SeenPage(
        rows=len(records),
        size_bytes=sum(map(len, records)),
        digest=digest(records),
        ids=tuple(id_of(record, page.type) for record in records),
        next_cursor=page.next_cursor,
    )


def _first(declared: Sequence[PageType], verb: str) -> PageType:
    for page_type in RECORD_TYPES:
        if page_type in declared:
            return page_type
    raise SkippedError(f"it {verb} neither BSON nor JSON, so its records cannot be judged")


def write_type(info: Info) -> PageType:
    """The type that records are written in.

    Raises:
        SkippedError: it declares neither BSON nor JSON.
    """
    return _first(info.sink.data_types if info.sink else (), "takes")
