"""A connector that keeps every promise: the memory connector, with a log of its changes that can be followed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Sequence
from itertools import count

import bson
import xxhash
from bson.int64 import Int64

from dsync.conformance import ExamineOptions, Report, examine
from dsync.protocol.inline import InlineConnector
from dsync.protocol.interface import Connector
from dsync.protocol.pages import packed, records_of, split_records
from dsync.sdk.errors import CursorExpiredError, RequestError
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.types import (
    BsonValue,
    ChangeCommit,
    ChangeFrame,
    ChangeRelation,
    ChangeStatus,
    ChangeType,
    Extensions,
    Info,
    LsnPosition,
    Operation,
    Page,
    PageType,
    Plan,
    PlanRequest,
    ReadRequest,
    SessionRequest,
    SinkCapabilities,
    StreamChangesRequest,
    StreamRequest,
    Update,
    UpdateBatch,
    UpdatesPartition,
    UpdateType,
    WriteRequest,
    WriteUpdatesRequest,
)

NAMESPACES = ("shop.orders", "shop.people")
SCRATCH = "kit.scratch"
CANARY = "what a record says, which no report may repeat"
"""Stands in every record that is not the kit's own."""
_ROWS = 45
_MARK = ""
"""Stands for a namespace in the log where there is a mark."""
_A_BATCH = 2


class Honest(MemoryConnector):
    """Two namespaces of three partitions, of several pages each; what is written can be followed."""

    def __init__(self, *, modest: bool = False) -> None:
        """`modest`: without the capabilities that can be declared or not."""
        super().__init__(partition_rows=15, header="x-part")
        self.modest = modest
        self.log: list[tuple[str, Update]] = []
        self.begun: dict[str, int] = {}
        """Where following begins, by flow."""
        self.acknowledged = 0
        self._logged = asyncio.Event()
        self.session = SessionRequest(page_bytes=48 * 1024)
        for name in NAMESPACES:
            self.put(name, [{"_id": Int64(number), "text": CANARY * 250} for number in range(_ROWS)])
        self.put(SCRATCH, [])
        self.store.create(SCRATCH)

    async def get_info(self) -> Info:
        info = await super().get_info()
        assert info.source is not None
        if self.modest:
            return dataclasses.replace(info, source=dataclasses.replace(info.source, get_by_ids=False))
        return dataclasses.replace(info, source=dataclasses.replace(info.source, lsn_stream=True))

    async def get_by_ids(self, namespace: str, ids: object, page_type: object) -> list[bytes]:
        if self.modest:
            return await Connector.get_by_ids(self, namespace, ids, page_type)  # type: ignore[arg-type]
        return await super().get_by_ids(namespace, ids, page_type)  # type: ignore[arg-type]

    # ---------------------------------------------------------------- changes

    async def generate_plan(self, request: PlanRequest) -> Plan:
        plan = await super().generate_plan(request) if request.initial_sync else Plan(partitions=())
        if not request.updates:
            return plan
        partition = UpdatesPartition(namespaces=request.namespaces, cursor=b"%d" % len(self.log))
        return dataclasses.replace(plan, updates_partitions=(partition,))

    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        await super().write_updates(request)
        self.logged(request.namespace, *request.updates)

    async def write_page(self, request: WriteRequest) -> int:
        written = await super().write_page(request)
        with self._exchange.body(request.page) as body:
            records = split_records(PageType.BSON, body)
        for record in records:
            self.logged(request.namespace, Update(id=(key_of(record),), type=UpdateType.INSERT, data=record))
        return written

    def logged(self, namespace: str, *updates: Update) -> None:
        """Note changes, and wake who waits for them."""
        self.log += [(namespace, update) for update in updates]
        self._logged.set()
        self._logged = asyncio.Event()

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        at = self.place(request.cursor)
        while True:
            batch = [update for name, update in self.log[at : at + _A_BATCH] if name in request.namespaces]
            if at < len(self.log):
                at = min(at + _A_BATCH, len(self.log))
                yield UpdateBatch(updates=tuple(batch), namespace=request.namespaces[0], next_cursor=b"%d" % at)
            else:
                await self._logged.wait()

    def place(self, cursor: bytes) -> int:
        """Where a cursor lies in the log."""
        if not cursor.isdigit() or int(cursor) > len(self.log):
            raise RequestError("the cursor is not one that this source has given")
        return int(cursor)

    async def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        if self.modest:
            return
        at = self.place(request.cursor) if request.cursor else 0
        while True:
            at = max(at, len(self.log))
            yield LsnPosition(lsn=at, next_cursor=b"%d" % at)
            while len(self.log) <= at:
                await self._logged.wait()

    # ------------------------------------------------- dsync.v1 ChangeService

    async def get_extensions(self) -> Extensions:
        return dataclasses.replace(await super().get_extensions(), stream_types=(ChangeType.BSON,))

    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> Plan:
        plan = await super().open_plan(namespaces)
        if not updates:
            return plan
        assert self.session is not None
        begun = self.begun.setdefault(self.session.flow, len(self.log))
        partition = UpdatesPartition(namespaces=tuple(namespaces), cursor=b"%d" % begun)
        return dataclasses.replace(plan, updates_partitions=(partition,), position=begun)

    async def stream_changes(self, request: StreamChangesRequest) -> AsyncIterator[ChangeFrame]:
        at = self.place(request.cursor)
        if at < self.acknowledged:
            raise CursorExpiredError("what comes after the cursor was acknowledged, and is gone")
        while True:
            if at < len(self.log):
                end = min(at + _A_BATCH, len(self.log))
                told = [entry for entry in self.log[at:end] if entry[0] in (*request.namespaces, _MARK)]
                at = end
                yield self.frame(told, at, request.namespaces)
            else:
                await self._logged.wait()

    def frame(self, told: Sequence[tuple[str, Update]], at: int, namespaces: Sequence[str]) -> ChangeFrame:
        """Entries of the log as a frame that ends there."""
        records = [update.data or update.id[0].data for _, update in told]
        operations = [Operation.MARK if name == _MARK else Operation(update.type) for name, update in told]
        return ChangeFrame(
            type=ChangeType.BSON,
            cursor=b"%d" % at,
            transaction=at,
            relations=tuple(ChangeRelation(namespace=name) for name in namespaces),
            operations=bytes(operations),
            relation_of=b"".join(
                (0 if name == _MARK else namespaces.index(name)).to_bytes(2, "little") for name, _ in told
            ),
            key_hashes=b"".join(self.key_hash(update) for _, update in told),
            sizes=b"".join(len(record).to_bytes(4, "little") for record in records),
            body=b"".join(records),
            commits=(ChangeCommit(end=len(told), transaction=at),) if told else (),
            position=len(self.log),
        )

    def key_hash(self, update: Update) -> bytes:
        """Equal for equal keys."""
        return xxhash.xxh3_64_digest(b"".join(bytes([value.type]) + value.data for value in update.id))

    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        self.logged(_MARK, Update(id=(), type=UpdateType.UNKNOWN, data=content))
        return len(self.log)

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        self.acknowledged = max(self.acknowledged, self.place(cursor))

    async def change_status(self, namespaces: Sequence[str]) -> ChangeStatus:
        return ChangeStatus(position=len(self.log), acknowledged=self.acknowledged, retained_bytes=0)

    async def release_changes(self, flow: str) -> list[str]:
        return ["the flow's position"] if self.begun.pop(flow, None) is not None else []


class JsonOnly(Connector):
    """An honest connector behind adiom.v1 alone, whose records are JSON objects."""

    def __init__(self) -> None:
        self.inner = Honest()

    async def get_info(self) -> Info:
        info = await self.inner.get_info()
        assert info.source is not None
        source = dataclasses.replace(info.source, data_types=(PageType.JSON,))
        return dataclasses.replace(info, source=source, sink=SinkCapabilities(data_types=(PageType.JSON,)))

    async def count(self, namespace: str) -> int:
        return await self.inner.count(namespace)

    async def generate_plan(self, request: PlanRequest) -> Plan:
        return await self.inner.generate_plan(request)

    async def list_data(self, request: ReadRequest) -> Page:
        self.require_json(request.type)
        page = await self.inner.read_page(dataclasses.replace(request, type=PageType.BSON))
        records = [_to_json(record) for record in records_of(page)]
        return Page(type=PageType.JSON, rows=len(records), records=records, next_cursor=page.next_cursor)

    async def write_data(self, request: WriteRequest) -> None:
        self.require_json(request.page.type)
        records = [_to_bson(record) for record in records_of(request.page)]
        page = Page(type=PageType.BSON, rows=len(records), records=records)
        await self.inner.write_page(packed_request(dataclasses.replace(request, page=page)))

    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        self.require_json(request.type)
        updates = [dataclasses.replace(one, data=_to_bson(one.data) if one.data else b"") for one in request.updates]
        await self.inner.write_updates(dataclasses.replace(request, updates=tuple(updates)))

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        async for batch in self.inner.stream_updates(request):
            updates = [dataclasses.replace(one, data=_to_json(one.data) if one.data else b"") for one in batch.updates]
            yield dataclasses.replace(batch, updates=tuple(updates))

    def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        return self.inner.stream_lsn(request)

    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        self.require_json(page_type)
        return [_to_json(one) if one else b"" for one in await self.inner.get_by_ids(namespace, ids, page_type)]

    def require_json(self, page_type: PageType) -> None:
        if page_type is not PageType.JSON:
            raise RequestError("records come as JSON objects only")


def _to_json(record: bytes) -> bytes:
    fields = bson.decode(record)
    return json.dumps({("id" if name == "_id" else name): value for name, value in fields.items()}).encode()


def _to_bson(record: bytes) -> bytes:
    try:
        fields = json.loads(record)
    except ValueError as exc:
        raise RequestError("a record is no JSON object") from exc
    whole = {("_id" if name == "id" else name): value for name, value in fields.items()}
    return bson.encode({name: Int64(value) if name == "_id" else value for name, value in whole.items()})


def packed_request(request: WriteRequest) -> WriteRequest:
    """The same with a packed body."""
    return dataclasses.replace(request, page=packed(request.page))


_numbers = count(1_000_000)


def orders(number: int) -> WriteUpdatesRequest:
    """So many new orders, as an application makes them."""
    records = [bson.encode({"_id": Int64(next(_numbers)), "text": CANARY}) for _ in range(number)]
    updates = (Update(id=(key_of(record),), type=UpdateType.INSERT, data=record) for record in records)
    return WriteUpdatesRequest(namespace=NAMESPACES[0], updates=tuple(updates))


def key_of(record: bytes) -> BsonValue:
    """A record's id as an update carries it."""
    element = bson.encode({"": bson.decode(record)["_id"]})
    return BsonValue(data=element[6:-1], type=element[4], name="_id")


def quick(**changed: object) -> ExamineOptions:
    """Everything may be tried. What comes comes at once, so the wait only matters where nothing does."""
    options = ExamineOptions(namespaces=NAMESPACES, scratch=SCRATCH, wait_s=5, pause_s=0.1, check_s=60)
    return dataclasses.replace(options, **changed)  # type: ignore[arg-type]


async def examined(connector: Connector, **changed: object) -> Report:
    """A connector in this process, as its caller sees it."""
    return await examine(InlineConnector(connector, name="memory"), quick(**changed))
