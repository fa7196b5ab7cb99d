"""The random source: partitions are ranges of ids, a cursor is the next id."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice

import xxhash

from dsync.sdk import Connector, namespaces
from dsync.sdk.errors import CapacityError, RequestError
from dsync.sdk.paging import PageExchange
from dsync.sdk.testing.faults import Faults
from dsync.sdk.types import (
    BsonValue,
    Extensions,
    Info,
    Page,
    PageType,
    Partition,
    Plan,
    PlanRequest,
    ReadRequest,
    SessionRequest,
    SourceCapabilities,
    StreamRequest,
    UpdateBatch,
    UpdatesPartition,
)
from dsync_random.changes import Position, changes_after
from dsync_random.options import RandomOptions
from dsync_random.shapes import INT64, Shape

_RANGE = struct.Struct(">QQ")
_CURSOR = struct.Struct(">Q")
_CHANGES_A_BATCH = 100
# What decides how documents look and which changes there are: with other values it is another endpoint.
_CONTENT = {"namespaces", "documents", "shape", "types", "document_bytes", "seed", "changes", "change_mix"}


class RandomConnector(Connector):
    """A source whose documents follow from its options; it needs no server and keeps no state."""

    def __init__(self, name: str, options: RandomOptions) -> None:
        self._name = name
        self._options = options
        names = [namespaces.join((name, f"c{number}")) for number in range(1, options.namespaces + 1)]
        # Shapes are made when they are first asked for: with a thousand namespaces few of them are read at a time.
        self._shapes: dict[str, Shape | None] = dict.fromkeys(names)
        self._faults = Faults(options.fault)
        self._session = SessionRequest()
        self._exchange = PageExchange()

    # ------------------------------------------------------------ adiom.v1

    async def get_info(self) -> Info:
        await self._faults.reach("get_info")
        content = self._options.model_dump_json(include=_CONTENT)
        return Info(
            id=f"random:{self._name}:{xxhash.xxh3_64_hexdigest(content.encode())}",
            db_type="random",
            version="1",
            source=SourceCapabilities(
                multi_namespace_plan=True,
                default_plan=True,
                # With changes there is no saying what a document is at this moment.
                get_by_ids=not self._options.changes,
            ),
        )

    async def count(self, namespace: str) -> int:
        await self._faults.reach("count")
        self._shape(namespace)
        return self._options.documents

    async def generate_plan(self, request: PlanRequest) -> Plan:
        await self._faults.reach("generate_plan")
        names = request.namespaces or tuple(self._shapes)
        for name in names:
            self._shape(name)
        return Plan(
            partitions=tuple(part for name in names for part in self._partitions(name)) if request.initial_sync else (),
            updates_partitions=tuple(
                UpdatesPartition(namespaces=(name,), cursor=Position().encode()) for name in names if request.updates
            ),
        )

    def _partitions(self, namespace: str) -> Iterator[Partition]:
        """Ranges of ids as equal as can be; a namespace with few documents has fewer of them."""
        documents = self._options.documents
        count = max(1, min(self._options.partitions, documents))
        for number in range(count):
            start, stop = documents * number // count, documents * (number + 1) // count
            yield Partition(namespace=namespace, cursor=_RANGE.pack(start, stop), estimated_count=stop - start)

    async def list_data(self, request: ReadRequest) -> Page:
        await self._faults.reach("list_data")
        start, stop, end = await self._page_range(request)
        size = self._shape(request.partition.namespace).document_bytes
        body = bytes(self._shape(request.partition.namespace).page(start, stop))
        return Page(
            type=PageType.BSON,
            rows=stop - start,
            records=[body[at : at + size] for at in range(0, len(body), size)],
            next_cursor=_next_cursor(stop, end),
        )

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        await self._faults.reach("stream_updates")
        if len(request.namespaces) != 1:
            raise RequestError("StreamUpdates: random has one stream for each namespace, as it was planned; name one")
        (namespace,) = request.namespaces
        options = self._options
        position = Position.decode(request.cursor)
        changes = changes_after(position, shape=self._shape(namespace), options=options, salt=namespace)
        batch_changes = _CHANGES_A_BATCH if not options.changes_per_s else max(1, int(options.changes_per_s / 10))
        while batch := list(islice(changes, batch_changes)):
            if options.changes_per_s:
                await asyncio.sleep(len(batch) / options.changes_per_s)
            await self._faults.reach("updates_batch")
            yield UpdateBatch(
                updates=tuple(update for update, _ in batch),
                namespace=namespace,
                next_cursor=batch[-1][1].encode(),
                time=datetime.now(UTC),
            )
        # A stream has no end: whoever reads it decides when it has enough.
        await asyncio.Event().wait()

    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        await self._faults.reach("get_by_ids")
        _require_bson(page_type, namespace)
        shape = self._shape(namespace)
        return [self._document(shape, values) for values in ids]

    def _document(self, shape: Shape, values: tuple[BsonValue, ...]) -> bytes:
        """The document with this id; empty where there is none. Type and bytes count, as the protocol says."""
        if len(values) != 1 or values[0].type != INT64 or len(values[0].data) != 8:
            return b""
        number = int.from_bytes(values[0].data, "little", signed=True)
        return shape.document(number) if 0 <= number < self._options.documents else b""

    # ------------------------------------------------------------ dsync.v1

    async def get_extensions(self) -> Extensions:
        await self._faults.reach("get_extensions")
        return Extensions(read_types=(PageType.BSON,), services=frozenset({"PageService"}), page_refs=True)

    async def open_session(self, request: SessionRequest) -> bytes:
        await self._faults.reach("open_session")
        self._session = request
        return self._exchange.open(request)

    async def read_page(self, request: ReadRequest) -> Page:
        action = await self._faults.reach("read_page")
        start, stop, end = await self._page_range(request, is_over_limit=action == "over-limit")
        cursor = request.cursor or _CURSOR.pack(start) if action == "same-cursor" else _next_cursor(stop, end)
        return self._exchange.page(
            PageType.BSON,
            self._shape(request.partition.namespace).page(start, stop),
            rows=stop - start,
            next_cursor=cursor,
            by_reference=request.by_reference,
        )

    # ------------------------------------------------------------ internals

    def _shape(self, namespace: str) -> Shape:
        if namespace not in self._shapes:
            raise RequestError(f"random has no namespace {namespace}; it has {next(iter(self._shapes))} and so on")
        shape = self._shapes[namespace]
        if shape is None:
            shape = self._shapes[namespace] = Shape(self._options, salt=namespace)
        return shape

    async def _page_range(self, request: ReadRequest, *, is_over_limit: bool = False) -> tuple[int, int, int]:
        """First id of a page, the first one after it, and the partition's end."""
        namespace = request.partition.namespace
        _require_bson(request.type, namespace)
        if self._options.latency_ms:
            await asyncio.sleep(self._options.latency_ms / 1000)
        size = self._shape(namespace).document_bytes
        session = self._session
        page_bytes = min(request.page_bytes or session.page_bytes, session.max_message_bytes)
        if is_over_limit:
            page_bytes = 2 * session.max_message_bytes + size
        elif size > session.max_message_bytes:
            raise CapacityError(
                f"{namespace}: a document has {size:,} bytes, over the limit of {session.max_message_bytes:,} for one "
                "message; lower document_bytes"
            )
        start, end = _range_of(request)
        return start, min(end, start + max(1, page_bytes // size)), end


def _range_of(request: ReadRequest) -> tuple[int, int]:
    partition = request.partition
    if len(partition.cursor) != _RANGE.size or len(request.cursor) not in (0, _CURSOR.size):
        raise RequestError(f"{partition.namespace}: the partition or its cursor is not one that random has given")
    first, end = _RANGE.unpack(partition.cursor)
    (start,) = _CURSOR.unpack(request.cursor) if request.cursor else (first,)
    if not first <= start <= end:
        raise RequestError(f"{partition.namespace}: the cursor belongs to another partition")
    return start, end


def _next_cursor(stop: int, end: int) -> bytes:
    return _CURSOR.pack(stop) if stop < end else b""


def _require_bson(page_type: PageType, namespace: str) -> None:
    if page_type is not PageType.BSON:
        raise RequestError(f"{namespace}: random has BSON documents only, not {page_type.name}")
