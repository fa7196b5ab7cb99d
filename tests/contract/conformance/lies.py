"""A connector for each check, which breaks the promise that the check is about."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import bson
import xxhash

from dsync.protocol.pages import join_records, records_of
from dsync.sdk.errors import (
    DsyncError,
    PermanentError,
    RecordError,
    RequestError,
    ServerUnavailableError,
    ThrottledError,
)
from dsync.sdk.types import (
    BsonValue,
    Bucket,
    ChangeFrame,
    ChecksumRequest,
    CopiedPartition,
    DescribeRequest,
    Extensions,
    FlowManifest,
    Info,
    KeyRange,
    LsnPosition,
    Page,
    PageType,
    Partition,
    Plan,
    PlanRequest,
    ReadRequest,
    ResumedPlan,
    RowHash,
    SchemaDescription,
    StreamChangesRequest,
    StreamRequest,
    UnitRef,
    UnitState,
    Update,
    UpdateBatch,
    UpdatesPartition,
    UpdateType,
    WriteRequest,
    WriteUpdatesRequest,
)
from tests.contract.conformance.honest import NAMESPACES, Honest, key_of

LIES: dict[str, Callable[[], Honest]] = {}
"""How to make the connector that fails a check, by the check's id."""

_Liar = TypeVar("_Liar", bound=type[Honest])


def lies_in(check: str) -> Callable[[_Liar], _Liar]:
    def register(liar: _Liar) -> _Liar:
        assert check not in LIES
        LIES[check] = liar
        return liar

    return register


def _without_last(page: Page) -> Page:
    return _of(page, list(records_of(page))[:-1])


def _of(page: Page, records: Sequence[bytes]) -> Page:
    return dataclasses.replace(page, records=records, packed=None, ref=None, rows=len(records))


class _Paging(Honest):
    """Pages as they are, for liars that change some of them."""

    async def read_page(self, request: ReadRequest) -> Page:
        return self.paged(request, await super().read_page(request))

    def paged(self, request: ReadRequest, page: Page) -> Page:
        return page


# ------------------------------------------------------------------ who it is


@lies_in("info.roles")
class NoRole(Honest):
    async def get_info(self) -> Info:
        return dataclasses.replace(await super().get_info(), source=None, sink=None)


@lies_in("info.types")
class NoTypes(Honest):
    async def get_info(self) -> Info:
        info = await super().get_info()
        assert info.source
        return dataclasses.replace(info, source=dataclasses.replace(info.source, data_types=()))


@lies_in("info.same-id")
class ChangingId(Honest):
    asked = 0

    async def get_info(self) -> Info:
        self.asked += 1
        return dataclasses.replace(await super().get_info(), id=f"life {self.asked}")


@lies_in("info.services")
class ServiceInName(Honest):
    async def get_extensions(self) -> Extensions:
        extensions = await super().get_extensions()
        return dataclasses.replace(extensions, services=extensions.services | {"CutoverService"})


# ---------------------------------------------------------------------- plans


class _Planning(Honest):
    async def generate_plan(self, request: PlanRequest) -> Plan:
        plan = await super().generate_plan(request)
        return dataclasses.replace(plan, partitions=tuple(self.planned(request, plan.partitions)))

    def planned(self, request: PlanRequest, partitions: Sequence[Partition]) -> Sequence[Partition]:
        return partitions


@lies_in("plan.one")
class PlansAnother(_Planning):
    def planned(self, request: PlanRequest, partitions: Sequence[Partition]) -> Sequence[Partition]:
        return [*partitions[:-1], dataclasses.replace(partitions[-1], namespace="another")]


@lies_in("plan.several")
class PlansTheFirst(_Planning):
    def planned(self, request: PlanRequest, partitions: Sequence[Partition]) -> Sequence[Partition]:
        return [partition for partition in partitions if partition.namespace in request.namespaces[:1]]


@lies_in("plan.default")
class PlansNothing(_Planning):
    def planned(self, request: PlanRequest, partitions: Sequence[Partition]) -> Sequence[Partition]:
        return partitions if request.namespaces else []


@lies_in("plan.counts")
class CountsNothing(Honest):
    async def count(self, namespace: str) -> int:
        return 0


@lies_in("plan.unknown")
class AsksToRetry(Honest):
    async def generate_plan(self, request: PlanRequest) -> Plan:
        if set(request.namespaces) - set(self.store.namespaces()):
            raise ServerUnavailableError("no such namespace")
        return await super().generate_plan(request)


# ---------------------------------------------------------------------- pages


@lies_in("pages.end")
class EmptyLastPage(Honest):
    """The cursor behind the last record is given out, and leads to nothing."""

    async def read_page(self, request: ReadRequest) -> Page:
        if request.cursor == b"9999":
            return Page(type=PageType.BSON, rows=0, packed=b"")
        page = await super().read_page(request)
        return page if page.next_cursor else dataclasses.replace(page, next_cursor=b"9999")


@lies_in("pages.repeat")
class OnceOnly(_Paging):
    def __init__(self) -> None:
        super().__init__()
        self.given: set[tuple[bytes, bytes]] = set()

    def paged(self, request: ReadRequest, page: Page) -> Page:
        place = (request.partition.cursor, request.cursor)
        again = place in self.given
        self.given.add(place)
        return _without_last(page) if again else page


@lies_in("pages.resume")
class GoesOnWhereItWas(Honest):
    """An open query at the server: whatever the cursor says, what comes is the next page or the one just given."""

    def __init__(self) -> None:
        super().__init__()
        self.last = b""

    async def read_page(self, request: ReadRequest) -> Page:
        lost = request.cursor != self.last and request.cursor < self.last
        cursor = b"%d" % (int(request.cursor) + 1) if lost and request.cursor else request.cursor
        self.last = request.cursor
        return await super().read_page(dataclasses.replace(request, cursor=cursor))


@lies_in("pages.once")
class Overlapping(_Planning):
    def planned(self, request: PlanRequest, partitions: Sequence[Partition]) -> Sequence[Partition]:
        def earlier(partition: Partition) -> Partition:
            snapshot, start, stop = partition.cursor.split(b":")
            return dataclasses.replace(partition, cursor=b"%s:%d:%s" % (snapshot, max(0, int(start) - 1), stop))

        return [earlier(partition) for partition in partitions]


@lies_in("pages.records")
class WithoutId(_Paging):
    def paged(self, request: ReadRequest, page: Page) -> Page:
        return _of(page, [*list(records_of(page))[:-1], bson.encode({"text": "x"})])


@lies_in("pages.types")
class PoorJson(Honest):
    async def get_info(self) -> Info:
        info = await super().get_info()
        assert info.source
        both = dataclasses.replace(info.source, data_types=(PageType.BSON, PageType.JSON))
        return dataclasses.replace(info, source=both)

    async def list_data(self, request: ReadRequest) -> Page:
        page = await self.read_page(dataclasses.replace(request, type=PageType.BSON))
        if request.type is PageType.BSON:
            return page
        records = [b'{"id": %d}' % number for number in range(page.rows - 1)]
        return dataclasses.replace(_of(page, records), type=PageType.JSON)


@lies_in("pages.size")
class HugePages(Honest):
    async def list_data(self, request: ReadRequest) -> Page:
        record = bson.encode({"_id": 1, "text": "x" * 4_000_000})
        return Page(type=PageType.BSON, rows=17, records=[record] * 17)


@lies_in("pages.bare")
class NeedsItsValue(_Planning):
    """What partition it is stands in the header's value alone."""

    def planned(self, request: PlanRequest, partitions: Sequence[Partition]) -> Sequence[Partition]:
        return [dataclasses.replace(partition, cursor=b"") for partition in partitions]

    async def read_page(self, request: ReadRequest) -> Page:
        start = 15 * int(request.partition.value or 0)
        partition = dataclasses.replace(request.partition, cursor=b":%d:%d" % (start, start + 15))
        return await super().read_page(dataclasses.replace(request, partition=partition))


@lies_in("pages.parallel")
class SharedPlace(Honest):
    current: ReadRequest

    async def read_page(self, request: ReadRequest) -> Page:
        self.current = request
        await asyncio.sleep(0)
        return await super().read_page(self.current)


@lies_in("pages.cancel")
class KeepsItsLock(Honest):
    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def read_page(self, request: ReadRequest) -> Page:
        await self.lock.acquire()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        page = await super().read_page(request)
        self.lock.release()
        return page


@lies_in("pages.foreign-cursor")
class FromTheStart(Honest):
    async def read_page(self, request: ReadRequest) -> Page:
        cursor = request.cursor if request.cursor.isdigit() else b""
        return await super().read_page(dataclasses.replace(request, cursor=cursor))


@lies_in("pages.unknown-type")
class AlwaysBson(Honest):
    async def list_data(self, request: ReadRequest) -> Page:
        return await self.read_page(dataclasses.replace(request, type=PageType.BSON))


# --------------------------------------------------------------- records by id


class _Finding(Honest):
    async def get_by_ids(self, namespace: str, ids: Any, page_type: Any) -> list[bytes]:
        return self.found(namespace, ids, await super().get_by_ids(namespace, ids, page_type))

    def found(self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], records: list[bytes]) -> list[bytes]:
        return records


@lies_in("lookup.order")
class Sorting(_Finding):
    def found(self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], records: list[bytes]) -> list[bytes]:
        return sorted(records)


@lies_in("lookup.absent")
class LeavesOut(_Finding):
    def found(self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], records: list[bytes]) -> list[bytes]:
        return [record for record in records if record]


@lies_in("lookup.type")
class BytesAlone(_Finding):
    def found(self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], records: list[bytes]) -> list[bytes]:
        return [self.store.get(namespace, b"\x12" + value.data) for (value,) in ids]


@lies_in("lookup.undeclared")
class FindsNothing(Honest):
    def __init__(self) -> None:
        super().__init__(modest=True)

    async def get_by_ids(self, namespace: str, ids: Any, page_type: object) -> list[bytes]:
        return [b""] * len(ids)


# -------------------------------------------------------------------- changes


class _Streaming(Honest):
    """Batches as they are, for liars that change some of them."""

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        batches = super().stream_updates(self.asked(request))
        async with aclosing(batches):  # type: ignore[type-var]
            async for batch in batches:
                yield self.streamed(batch)

    def asked(self, request: StreamRequest) -> StreamRequest:
        return request

    def streamed(self, batch: UpdateBatch) -> UpdateBatch:
        return batch


@lies_in("stream.from-plan")
class BeginsNow(_Streaming):
    async def generate_plan(self, request: PlanRequest) -> Plan:
        plan = await super().generate_plan(request)
        nowhere = UpdatesPartition(namespaces=request.namespaces)
        return dataclasses.replace(plan, updates_partitions=(nowhere,)) if request.updates else plan

    def asked(self, request: StreamRequest) -> StreamRequest:
        return dataclasses.replace(request, cursor=request.cursor or b"%d" % len(self.log))


@lies_in("stream.form")
class AnotherRecord(_Streaming):
    def streamed(self, batch: UpdateBatch) -> UpdateBatch:
        other = bson.encode({"_id": "another"})
        return dataclasses.replace(
            batch, updates=tuple(dataclasses.replace(update, data=other) for update in batch.updates)
        )


@lies_in("stream.namespace")
class AnotherNamespace(_Streaming):
    def streamed(self, batch: UpdateBatch) -> UpdateBatch:
        return dataclasses.replace(batch, namespace="another")


@lies_in("stream.cursors")
class NoCursors(_Streaming):
    def streamed(self, batch: UpdateBatch) -> UpdateBatch:
        return dataclasses.replace(batch, next_cursor=b"")


@lies_in("stream.resume")
class SkipsOne(_Streaming):
    """The cursor's own change is taken for the last one that arrived, which it is not."""

    async def generate_plan(self, request: PlanRequest) -> Plan:
        plan = await super().generate_plan(request)
        self.planned = {part.cursor for part in plan.updates_partitions}
        return plan

    def asked(self, request: StreamRequest) -> StreamRequest:
        at = self.place(request.cursor)
        moved = at if request.cursor in self.planned else min(at + 1, len(self.log))
        return dataclasses.replace(request, cursor=b"%d" % moved)


@lies_in("stream.twice")
class GivesAway(_Streaming):
    """A queue: what one reader has got no other one gets."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[bytes] = []
        self.open = 0

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        self.open += 1
        try:
            async for batch in super().stream_updates(request):
                if self.open > 1 and batch.next_cursor in self.given:
                    continue
                self.given += [batch.next_cursor] if self.open > 1 else []
                yield batch
        finally:
            self.open -= 1


@lies_in("stream.slow")
class DropsForTheSlow(Honest):
    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        loop = asyncio.get_running_loop()
        skipping = False
        async for batch in super().stream_updates(request):
            if skipping:
                skipping = False
                continue
            given_at = loop.time()
            yield batch
            skipping = loop.time() - given_at > 0.08


@lies_in("stream.cancel")
class KeepsItsSlots(Honest):
    streams = 0

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        self.streams += 1
        if self.streams > 4:
            raise ThrottledError("all replication slots are in use")
        async for batch in super().stream_updates(request):
            yield batch


@lies_in("stream.foreign-cursor")
class AnyCursor(_Streaming):
    def asked(self, request: StreamRequest) -> StreamRequest:
        known = request.cursor.isdigit()
        return request if known else dataclasses.replace(request, cursor=b"%d" % len(self.log))


@lies_in("stream.deletes")
class NoDeletes(_Streaming):
    def streamed(self, batch: UpdateBatch) -> UpdateBatch:
        kept = tuple(update for update in batch.updates if update.type is not UpdateType.DELETE)
        return dataclasses.replace(batch, updates=kept)


@lies_in("lsn.none")
class SilentPositions(Honest):
    def __init__(self) -> None:
        super().__init__(modest=True)

    async def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        await asyncio.Event().wait()
        yield LsnPosition(lsn=0, next_cursor=b"")


@lies_in("lsn.grows")
class FallingPositions(Honest):
    async def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        for lsn in (20, 10, 5):
            yield LsnPosition(lsn=lsn, next_cursor=b"%d" % lsn)


@lies_in("lsn.resume")
class ForgetfulPositions(Honest):
    async def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        start = 1 if request.cursor else 10
        for lsn in range(start, start + 3):
            yield LsnPosition(lsn=lsn, next_cursor=b"%d" % lsn)


# ------------------------------------------------------------ writing records


class _Writing(Honest):
    """WriteData goes its own way, for liars that change what is written."""

    async def write_data(self, request: WriteRequest) -> None:
        records = self.kept(request.namespace, list(records_of(request.page)))
        await self.write_page(dataclasses.replace(request, page=_packed(request.page, records)))

    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        return records


def _packed(page: Page, records: Sequence[bytes]) -> Page:
    body = join_records(PageType.BSON, records)
    return dataclasses.replace(page, rows=len(records), records=None, packed=body)


@lies_in("write.arrives")
class ForgetsTheLast(_Writing):
    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        return records[:-1]


@lies_in("write.twice")
class Appends(_Writing):
    """A table without key: what comes again is there again."""

    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        for record in records:
            key = key_of(record)
            if self.store.get(namespace, bytes([key.type]) + key.data):
                with self.store.transaction():
                    self.store.put(namespace, [(b"again" + key.data, record)])
        return records


@lies_in("write.replaces")
class KeepsTheFirst(_Writing):
    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        keys = {record: key_of(record) for record in records}
        return [record for record, key in keys.items() if not self.store.get(namespace, bytes([key.type]) + key.data)]


@lies_in("write.duplicates")
class RefusesDuplicates(_Writing):
    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        if len({key_of(record) for record in records}) < len(records):
            raise RecordError("ON CONFLICT DO UPDATE command cannot affect row a second time")
        return records


@lies_in("write.empty")
class RefusesNothing(_Writing):
    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        if not records:
            raise RequestError("no records")
        return records


@lies_in("write.large")
class CutsText(_Writing):
    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        decoded = [bson.decode(record) for record in records]
        return [bson.encode({**one, "text": one["text"][:65_536]}) for one in decoded]


@lies_in("write.parallel")
class SharedBuffer(_Writing):
    async def write_data(self, request: WriteRequest) -> None:
        self.buffer = request
        await asyncio.sleep(0)
        await super().write_data(self.buffer)


@lies_in("write.garbage")
class SkipsGarbage(Honest):
    async def write_data(self, request: WriteRequest) -> None:
        whole = [record for record in records_of(request.page) if int.from_bytes(record[:4], "little") == len(record)]
        await self.write_page(dataclasses.replace(request, page=_packed(request.page, whole)))


@lies_in("write.unknown-type")
class DropsUnknown(Honest):
    async def write_data(self, request: WriteRequest) -> None:
        if request.page.type is PageType.BSON:
            await self.write_page(dataclasses.replace(request, page=_packed(request.page, records_of(request.page))))


# ------------------------------------------------------------ writing changes


class _Applying(Honest):
    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        updates = tuple(self.applied(request.namespace, list(request.updates)))
        await super().write_updates(dataclasses.replace(request, updates=updates))

    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        return updates

    def has(self, namespace: str, update: Update) -> bool:
        (value,) = update.id
        return bool(self.store.get(namespace, bytes([value.type]) + value.data))


@lies_in("updates.apply")
class DoesNothing(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        return []


@lies_in("updates.twice")
class DeletesOnce(_Applying):
    """A cache of the deletes that were done keeps them from being done again."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[tuple[BsonValue, ...]] = set()

    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        kept = [one for one in updates if one.type is not UpdateType.DELETE or one.id not in self.deleted]
        self.deleted |= {one.id for one in kept if one.type is UpdateType.DELETE}
        return kept


@lies_in("updates.order")
class DeletesFirst(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        return sorted(updates, key=lambda update: update.type is not UpdateType.DELETE)


@lies_in("updates.upsert")
class UpdatesWhatIsThere(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        return [one for one in updates if one.type is not UpdateType.UPDATE or self.has(namespace, one)]


@lies_in("updates.delete-absent")
class MissesDeleted(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        for update in updates:
            if update.type is UpdateType.DELETE and not self.has(namespace, update):
                raise PermanentError("0 rows were deleted, and 1 was to be")
        return updates


@lies_in("updates.partial")
class PartForTheWhole(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        def whole(update: Update) -> Update:
            if update.type is not UpdateType.PARTIAL_UPDATE:
                return update
            (value,) = update.id
            record = bson.encode({"_id": int.from_bytes(value.data, "little"), **bson.decode(update.data)})
            return Update(id=update.id, type=UpdateType.UPDATE, data=record)

        return [whole(update) for update in updates]


@lies_in("updates.empty")
class RefusesNoChanges(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        if not updates:
            raise RequestError("no changes")
        return updates


@lies_in("updates.unknown-kind")
class PassesOver(_Applying):
    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        return [update for update in updates if update.type is not UpdateType.UNKNOWN]


# ------------------------------------------------------------------------ ids


@lies_in("ids.kinds")
class IdsAsText(_Writing):
    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        decoded = [bson.decode(record) for record in records]
        return [bson.encode({**one, "_id": str(one["_id"])}) for one in decoded]


@lies_in("ids.types")
class IdsByBytes(_Writing):
    """Of two ids with equal bytes the second takes the first one's place."""

    def kept(self, namespace: str, records: list[bytes]) -> list[bytes]:
        for record in records:
            for kind in (0x01, 0x09, 0x11, 0x12):
                self.store.delete(namespace, bytes([kind]) + key_of(record).data)
        return records


@lies_in("ids.numbers")
class NumbersAreOneToChanges(_Applying):
    """Records are kept by type and bytes, and changes find them by their value."""

    def applied(self, namespace: str, updates: list[Update]) -> Sequence[Update]:
        for update in updates:
            if update.type is UpdateType.DELETE:
                (value,) = update.id
                wanted = bson.decode(_document(value))[""]
                for _, key, record in list(self.store.documents(namespace)):
                    if bson.decode(bytes(record))["_id"] == wanted:
                        self.store.delete(namespace, bytes(key))
        return updates


def _document(value: BsonValue) -> bytes:
    body = bytes([value.type]) + b"\x00" + value.data + b"\x00"
    return (len(body) + 4).to_bytes(4, "little") + body


# ------------------------------------------------------------- dsync.v1: pages


@lies_in("page.records")
class PoorPages(Honest):
    async def list_data(self, request: ReadRequest) -> Page:
        return await super().read_page(request)

    async def read_page(self, request: ReadRequest) -> Page:
        return _without_last(await super().read_page(request))


@lies_in("page.rows")
class CountsOneMore(_Paging):
    def paged(self, request: ReadRequest, page: Page) -> Page:
        return dataclasses.replace(page, rows=page.rows + 1)


@lies_in("page.repeat")
class PacksOnceOnly(OnceOnly):
    async def list_data(self, request: ReadRequest) -> Page:
        return await Honest.read_page(self, request)


@lies_in("page.bytes")
class AsLargeAsItLikes(Honest):
    async def read_page(self, request: ReadRequest) -> Page:
        return await super().read_page(dataclasses.replace(request, page_bytes=1 << 24))


@lies_in("page.reference")
class OneFileForAll(Honest):
    """What was written into the folder once is given to whoever asks again."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[bytes, Page] = {}

    async def read_page(self, request: ReadRequest) -> Page:
        if not request.by_reference:
            return await super().read_page(request)
        place = request.partition.cursor + request.cursor
        return self.pages.setdefault(place, await super().read_page(request))


@lies_in("page.reference-taken")
class RemovesTheFile(Honest):
    async def write_page(self, request: WriteRequest) -> int:
        written = await super().write_page(request)
        if request.page.ref is not None:
            assert self.session is not None
            Path(self.session.page_directory, request.page.ref.name).unlink()
        return written


@lies_in("page.write")
class CountsNoRows(Honest):
    async def write_page(self, request: WriteRequest) -> int:
        await super().write_page(request)
        return 0


@lies_in("page.whole")
class WritesHalf(Honest):
    async def write_page(self, request: WriteRequest) -> int:
        try:
            return await super().write_page(request)
        except DsyncError:
            body = bytes(request.page.packed or b"")
            first = body[: int.from_bytes(body[:4], "little")]
            await super().write_page(dataclasses.replace(request, page=_packed(request.page, [first]), context=None))
            raise


@lies_in("page.insert-only")
class Overwrites(Honest):
    async def write_page(self, request: WriteRequest) -> int:
        return await super().write_page(dataclasses.replace(request, insert_only=False))


# -------------------------------------------------------- dsync.v1: the ledger


@lies_in("ledger.stands")
class ForgetsItsPlace(Honest):
    async def open_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        return [dataclasses.replace(state, cursor=b"") for state in await super().open_units(flow, run, units)]


@lies_in("ledger.read")
class ReadingTakesOver(Honest):
    async def read_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        return await self.open_units(flow, run, units)


@lies_in("ledger.repeat")
class CountsTwice(Honest):
    """Every write is a new one."""

    async def write_page(self, request: WriteRequest) -> int:
        context = request.context
        if context is not None:
            seen = self.store.read_unit(context.flow, context.run, context.unit).seq
            context = dataclasses.replace(context, seq=max(context.seq, seen + 1))
        return await super().write_page(dataclasses.replace(request, context=context))


@lies_in("ledger.fence")
class LetsZombiesIn(Honest):
    async def write_page(self, request: WriteRequest) -> int:
        context = request.context
        if context is not None:
            fence = self.store.read_unit(context.flow, context.run, context.unit).fence
            context = dataclasses.replace(context, fence=fence)
        return await super().write_page(dataclasses.replace(request, context=context))


@lies_in("ledger.atomic")
class AheadOfItsData(Honest):
    async def write_page(self, request: WriteRequest) -> int:
        try:
            return await super().write_page(request)
        except DsyncError:
            if request.context is not None:
                with self.store.transaction():
                    self.store.advance(request.context, rows=request.page.rows, size_bytes=0)
            raise


@lies_in("ledger.manifest")
class NeverForgets(Honest):
    async def forget_flow(self, flow: str) -> list[str]:
        return ["everything"]

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[FlowManifest]:
        return await super().find_manifests(flow=flow, fingerprint=fingerprint)


# ------------------------------------------------------------- dsync.v1: plans


@lies_in("snapshot.held")
class AlwaysAnother(Honest):
    async def resume_plan(
        self,
        snapshot: bytes,
        partitions: Sequence[CopiedPartition],
        updates_partitions: Sequence[UpdatesPartition] = (),
    ) -> ResumedPlan:
        plan = await self.open_plan(NAMESPACES)
        return ResumedPlan(snapshot=plan.snapshot)


@lies_in("snapshot.still")
class ReadsThePresent(Honest):
    async def read_page(self, request: ReadRequest) -> Page:
        snapshot, start, _ = request.partition.cursor.split(b":")
        partition = dataclasses.replace(request.partition, cursor=b"%s:%s:%d" % (snapshot, start, 1 << 30))
        return await super().read_page(dataclasses.replace(request, partition=partition))


@lies_in("snapshot.closed")
class ReadsWithoutSnapshot(Honest):
    closed = False

    async def close_plan(self, flow: str) -> None:
        self.closed = True

    async def read_page(self, request: ReadRequest) -> Page:
        page = await super().read_page(request)
        return _without_last(page) if self.closed else page


# ----------------------------------------------------------- dsync.v1: changes


@lies_in("changes.from-plan")
class FramesFromNow(Honest):
    async def stream_changes(self, request: StreamChangesRequest) -> AsyncIterator[ChangeFrame]:
        # Whatever was written before the stream is really open.
        await asyncio.sleep(0.01)
        late = dataclasses.replace(request, cursor=b"%d" % len(self.log))
        async for frame in super().stream_changes(late):
            yield frame


@lies_in("changes.form")
class OneHashForAll(Honest):
    def key_hash(self, update: Update) -> bytes:
        return bytes(8)


@lies_in("changes.keys")
class HashesWholeRecords(Honest):
    def key_hash(self, update: Update) -> bytes:
        return xxhash.xxh3_64_digest(update.data)


@lies_in("changes.places")
class StandsStill(Honest):
    def frame(self, told: Sequence[tuple[str, Update]], at: int, namespaces: Sequence[str]) -> ChangeFrame:
        frame = super().frame(told, at, namespaces)
        commits = tuple(dataclasses.replace(commit, transaction=1) for commit in frame.commits)
        return dataclasses.replace(frame, transaction=1, commits=commits)


@lies_in("changes.resume")
class DiscardsWhatWasRead(Honest):
    """Whoever opens a stream is taken to have everything before its cursor."""

    async def stream_changes(self, request: StreamChangesRequest) -> AsyncIterator[ChangeFrame]:
        async for frame in super().stream_changes(request):
            self.acknowledged = max(self.acknowledged, self.place(request.cursor))
            yield frame


@lies_in("changes.again")
class BeginsAnew(Honest):
    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> Plan:
        self.begun.clear()
        return await super().open_plan(namespaces, updates=updates, wait_s=wait_s)


@lies_in("changes.mark")
class MakesNoMark(Honest):
    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        return len(self.log)


@lies_in("changes.acknowledge")
class LetsGoOfMore(Honest):
    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        self.acknowledged = len(self.log)


@lies_in("changes.release")
class KeepsEverything(Honest):
    async def release_changes(self, flow: str) -> list[str]:
        return ["the flow's position"]


# -------------------------------------------------- dsync.v1: schema, checksums


@lies_in("schema.asked")
class DescribesLess(Honest):
    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        described = await super().describe(request)
        return dataclasses.replace(described, namespaces=described.namespaces[:-1])


@lies_in("schema.all")
class DescribesNothingByItself(Honest):
    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        described = await super().describe(request)
        return described if request.namespaces else dataclasses.replace(described, namespaces=())


@lies_in("checksum.counts")
class CountsMore(Honest):
    async def count_rows(self, namespace: str) -> int:
        return await super().count_rows(namespace) + 1


@lies_in("checksum.same")
class SumsAnew(Honest):
    salt = 0

    async def get_checksum(self, request: ChecksumRequest) -> list[Bucket]:
        self.salt += 1
        found = await super().get_checksum(request)
        return [dataclasses.replace(bucket, sum=bucket.sum + self.salt) for bucket in found]


@lies_in("checksum.rows")
class HashesLess(Honest):
    async def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        async for rows in super().get_row_hashes(request):
            yield rows[1:]


@lies_in("checksum.ranges")
class CutsTwice(Honest):
    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[KeyRange]:
        return [KeyRange(), KeyRange()]
