"""A source and sink of BSON documents without a server: for tests, and as a small complete connector to read.

It serves every service, keeps a ledger in the transaction of the data, and goes wrong on order (`dsync.sdk.testing
.faults`). Its snapshot is a promise about versions: a plan whose namespaces have changed since is told apart.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import struct
from collections.abc import AsyncIterator, Iterator, Sequence

import bson
import xxhash

from dsync.protocol.errors import RequestError, SinkNotEmptyError, SnapshotLostError, UnsupportedError
from dsync.protocol.interface import Connector, services_of
from dsync.protocol.pages import split_records
from dsync.sdk.paging import PageBuilder, PageExchange
from dsync.sdk.testing.faults import Faults
from dsync.sdk.testing.memory_store import MemoryStore
from dsync.sdk.types import (
    BsonValue,
    Bucket,
    CheckRequest,
    ChecksumRequest,
    Column,
    CopiedPartition,
    DescribeRequest,
    Extensions,
    Finding,
    FinishStep,
    FlowManifest,
    Info,
    KeyRange,
    NamespaceDescription,
    NamespaceVerdict,
    OnExisting,
    Page,
    PageType,
    Partition,
    Plan,
    PlanRequest,
    Prepared,
    PreparedNamespace,
    PrepareRequest,
    ReadRequest,
    ResumedPlan,
    RowHash,
    RowsRequest,
    SchemaDescription,
    SessionRequest,
    SinkCapabilities,
    SourceCapabilities,
    TextRow,
    UnitRef,
    UnitState,
    Update,
    UpdatesPartition,
    UpdateType,
    Verdict,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
)

_HASHED_ROWS_A_BATCH = 1000
_SUM_MODULUS = 1 << 128


class MemoryConnector(Connector):
    """Documents by `_id`; give two of them one store to read what the other wrote."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        faults: Faults | None = None,
        partition_rows: int = 1000,
        endpoint_id: str = "memory",
        header: str = "",
    ) -> None:
        self.store = store or MemoryStore()
        self.faults = faults or Faults()
        self.cursors_asked: list[bytes] = []
        """Every cursor that pages were asked with, in order."""
        self.session: SessionRequest | None = None
        self._partition_rows = partition_rows
        self._endpoint_id = endpoint_id
        self._header = header
        self._exchange = PageExchange()
        self._snapshots: set[str] = set()

    async def close(self) -> None:
        await self.faults.reach("close")

    # ------------------------------------------------------------ what tests do with it

    def serve(self, namespace: str, rows: int, *, record_bytes: int = 100) -> None:
        """Fill a namespace with documents `{_id: 0}`, `{_id: 1}`, … of about that size."""
        padding = b"x" * max(0, record_bytes - 30)
        documents = [{"_id": number, "text": padding} for number in range(rows)]
        self.put(namespace, documents)

    def put(self, namespace: str, documents: Sequence[dict[str, object]]) -> None:
        """Write documents past the protocol, as an application does."""
        with self.store.transaction():
            self.store.put(namespace, [_keyed(bson.encode(document)) for document in documents], refusing=False)

    def documents(self, namespace: str) -> list[dict[str, object]]:
        """What a namespace holds, in the order in which it came."""
        return [bson.decode(document) for _, _, document in self.store.documents(namespace)]

    # ------------------------------------------------------------ adiom.v1

    async def get_info(self) -> Info:
        await self.faults.reach("get_info")
        return Info(
            id=self._endpoint_id,
            db_type="memory",
            version="1",
            source=SourceCapabilities(multi_namespace_plan=True, default_plan=True, get_by_ids=True),
            sink=SinkCapabilities(),
        )

    async def count(self, namespace: str) -> int:
        await self.faults.reach("count")
        return self.store.count(namespace)

    async def generate_plan(self, request: PlanRequest) -> Plan:
        await self.faults.reach("generate_plan")
        names = request.namespaces or tuple(self.store.namespaces())
        return Plan(partitions=tuple(part for name in names for part in self._partitions(name, "")))

    def _partitions(self, namespace: str, snapshot: str) -> Iterator[Partition]:
        end = self.store.end(namespace)
        step = self._partition_rows
        for start in range(0, max(end, 1), step):
            stop = min(start + step, end)
            yield Partition(
                namespace=namespace,
                header=self._header,
                value=str(start // step) if self._header else "",
                cursor=f"{snapshot}:{start}:{stop}".encode(),
                estimated_count=max(0, stop - start),
            )

    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        await self.faults.reach("write_updates")
        with self.store.transaction():
            for update in request.updates:
                self._apply(request.namespace, update)

    def _apply(self, namespace: str, update: Update) -> None:
        key = _key_of(update.id)
        if update.type is UpdateType.UNKNOWN:
            raise RequestError(f"{namespace}: a change of a kind that memory does not know")
        if update.type is UpdateType.DELETE:
            self.store.delete(namespace, key)
            return
        document = update.data
        if update.type is UpdateType.PARTIAL_UPDATE:
            present = self.store.get(namespace, key)
            merged = {**(bson.decode(present) if present else {}), **bson.decode(update.data)}
            for name in update.partial_update_unset:
                merged.pop(name, None)
            document = bson.encode(merged)
        self.store.put(namespace, [(key, document)])

    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        await self.faults.reach("get_by_ids")
        return [self.store.get(namespace, _key_of(values)) for values in ids]

    # ------------------------------------------------- dsync.v1 ExtensionService

    async def get_extensions(self) -> Extensions:
        await self.faults.reach("get_extensions")
        return Extensions(
            read_types=(PageType.BSON,),
            write_types=(PageType.BSON,),
            services=services_of(self),
            page_refs=True,
            insert_only=True,
            transactional=True,
            checksum_dialect="memory",
            schema_dialect="memory",
        )

    async def open_session(self, request: SessionRequest) -> bytes:
        await self.faults.reach("open_session")
        self.session = request
        return self._exchange.open(request)

    async def check(self, request: CheckRequest) -> tuple[Finding, ...]:
        await self.faults.reach("check")
        return ()

    # ------------------------------------------------------ dsync.v1 PageService

    async def read_page(self, request: ReadRequest) -> Page:
        action = await self.faults.reach("read_page")
        if request.type is not PageType.BSON:
            raise RequestError(f"{request.partition.namespace}: memory has BSON pages only, not {request.type.name}")
        self.cursors_asked.append(request.cursor)
        start, stop = self._range(request)
        session = self.session or SessionRequest()
        page_bytes = request.page_bytes or session.page_bytes
        if action == "over-limit":
            page_bytes = 4 * session.max_message_bytes
        page = self._build(request.partition.namespace, start, stop, page_bytes)
        cursor = request.cursor or b"0" if action == "same-cursor" else page.next_cursor
        if page.packed is None:
            return page
        return self._exchange.page(
            page.type, page.packed, rows=page.rows, next_cursor=cursor, by_reference=request.by_reference
        )

    def _range(self, request: ReadRequest) -> tuple[int, int]:
        """Where to go on, and where the partition ends.

        Raises:
            SnapshotLostError: the partition belongs to a snapshot that this process does not hold.
        """
        if request.partition.cursor.count(b":") != 2:
            raise RequestError(f"{request.partition.namespace}: the partition is not one that memory has planned")
        snapshot, start, stop = request.partition.cursor.decode().split(":")
        if snapshot and snapshot not in self._snapshots:
            raise SnapshotLostError(f"{request.partition.namespace}: the snapshot of this plan is gone; plan again")
        if request.cursor and not request.cursor.isdigit():
            raise RequestError(f"{request.partition.namespace}: the cursor is not one that memory has given")
        return int(request.cursor or start), int(stop)

    def _build(self, namespace: str, start: int, stop: int, page_bytes: int) -> Page:
        builder = PageBuilder(PageType.BSON, page_bytes=page_bytes, max_bytes=1 << 31)
        for position, _, document in self.store.documents(namespace, start, stop):
            if not builder.add(bytes(document), what=f"a document of {namespace}"):
                return builder.build(str(position).encode())
        return builder.build(b"")

    async def write_page(self, request: WriteRequest) -> int:
        action = await self.faults.reach("write_page")
        if request.page.type is not PageType.BSON:
            raise RequestError(f"{request.namespace}: memory takes BSON pages only, not {request.page.type.name}")
        with self._exchange.body(request.page) as body:
            documents = [_keyed(record) for record in split_records(request.page.type, body)]
        if action == "partial":
            # A sink that breaks its word: half of the page lands, without a ledger row.
            with self.store.transaction():
                return self.store.put(request.namespace, documents[: len(documents) // 2])
        with self.store.transaction():
            context, size_bytes = request.context, request.page.size_bytes
            if context and not self.store.advance(context, rows=len(documents), size_bytes=size_bytes):
                return len(documents)
            written = self.store.put(request.namespace, documents, replacing=not request.insert_only)
        await self.faults.reach("write_page_answer")
        return written

    # ---------------------------------------------------- dsync.v1 LedgerService

    async def open_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        await self.faults.reach("open_units")
        with self.store.transaction():
            return [self.store.open_unit(flow, run, unit) for unit in units]

    async def read_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        await self.faults.reach("read_units")
        return [self.store.read_unit(flow, run, unit.unit) for unit in units]

    async def save_manifest(self, manifest: FlowManifest) -> None:
        await self.faults.reach("save_manifest")
        with self.store.transaction():
            self.store.save_manifest(manifest)

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[FlowManifest]:
        await self.faults.reach("find_manifests")
        return [
            manifest
            for manifest in self.store.manifests()
            if flow in ("", manifest.flow) and fingerprint in ("", manifest.fingerprint)
        ]

    async def clear_namespace(self, context: WriteContext, namespace: str, units: Sequence[str]) -> None:
        await self.faults.reach("clear_namespace")
        with self.store.transaction():
            self.store.clear(namespace)
            self.store.reset_units(context.flow, context.run, units)

    async def forget_flow(self, flow: str) -> list[str]:
        await self.faults.reach("forget_flow")
        with self.store.transaction():
            return self.store.forget(flow)

    # ------------------------------------------------------ dsync.v1 PlanService

    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> Plan:
        if updates:
            raise UnsupportedError("the memory connector does not follow changes")
        await self.faults.reach("open_plan")
        token = secrets.token_hex(8)
        self._snapshots.add(token)
        names = list(namespaces) or self.store.namespaces()
        versions = {name: self.store.version(name) for name in names}
        return Plan(
            partitions=tuple(part for name in names for part in self._partitions(name, token)),
            snapshot=json.dumps({"token": token, "versions": versions}).encode(),
        )

    async def resume_plan(
        self,
        snapshot: bytes,
        partitions: Sequence[CopiedPartition],
        updates_partitions: Sequence[UpdatesPartition] = (),
    ) -> ResumedPlan:
        await self.faults.reach("resume_plan")
        old = json.loads(snapshot)
        if old["token"] in self._snapshots:
            return ResumedPlan(snapshot=snapshot)
        fresh = await self.open_plan(list(old["versions"]))
        # Partitions keep naming the snapshot they were planned under; what is unchanged reads the same under it.
        self._snapshots |= {copied.partition.cursor.decode().split(":")[0] for copied in partitions}
        verdicts = [
            NamespaceVerdict(namespace=name, verdict=Verdict.UNCHANGED)
            if self.store.version(name) == version
            else NamespaceVerdict(
                namespace=name,
                verdict=Verdict.CHANGED,
                reason="documents were written since the snapshot",
                partitions=tuple(part for part in fresh.partitions if part.namespace == name),
            )
            for name, version in old["versions"].items()
        ]
        return ResumedPlan(snapshot=fresh.snapshot, verdicts=tuple(verdicts))

    async def close_plan(self, flow: str) -> None:
        await self.faults.reach("close_plan")
        self._snapshots.clear()

    # ---------------------------------------------------- dsync.v1 SchemaService

    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        await self.faults.reach("describe")
        names = request.namespaces or tuple(self.store.namespaces())
        return SchemaDescription(
            dialect="memory",
            namespaces=tuple(
                NamespaceDescription(
                    namespace=name,
                    columns=(Column(name="_id", type="bson", key_position=1, page_types=(PageType.BSON,)),),
                    estimated_rows=self.store.count(name),
                    kind="collection",
                )
                for name in names
            ),
        )

    async def get_finish_data(self, step: FinishStep) -> bytes:
        await self.faults.reach("get_finish_data")
        return step.name.encode()

    async def prepare(self, request: PrepareRequest) -> Prepared:
        await self.faults.reach("prepare")
        return Prepared(
            namespaces=tuple(self._prepare(request, m.source, m.target) for m in request.mappings),
            steps=tuple(
                FinishStep(id=f"index:{m.target}", kind="index", name=f"{m.target}_idx", namespace=m.target)
                for m in request.mappings
            ),
            ddl=tuple(f"create {m.target}" for m in request.mappings),
        )

    def _prepare(self, request: PrepareRequest, source: str, target: str) -> PreparedNamespace:
        owner = self.store.flow_of(target)
        rows = self.store.count(target)
        if rows and owner != request.flow and request.on_existing in (OnExisting.ERROR, OnExisting.RESUME):
            raise SinkNotEmptyError(f"{target} has {rows} documents that are not ours: choose with --on-existing")
        if not request.dry_run:
            if request.on_existing in (OnExisting.TRUNCATE, OnExisting.DROP) and owner != request.flow:
                self.store.drop(target)
            self.store.create(target, request.flow)
        return PreparedNamespace(
            source=source, target=target, page_type=PageType.BSON, existed=owner is not None, upsert=rows > 0
        )

    async def finish(self, context: WriteContext, step: FinishStep, source_data: bytes) -> None:
        await self.faults.reach("finish")
        with self.store.transaction():
            self.store.advance(context, rows=0, size_bytes=0)

    # -------------------------------------------------- dsync.v1 ChecksumService

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[KeyRange]:
        await self.faults.reach("plan_ranges")
        return [KeyRange()]

    async def get_checksum(self, request: ChecksumRequest) -> list[Bucket]:
        await self.faults.reach("get_checksum")
        buckets: dict[int, tuple[int, int]] = {}
        for bucket, row in self._hashes(request):
            count, total = buckets.get(bucket, (0, 0))
            buckets[bucket] = count + 1, (total + int.from_bytes(row.hash, "big")) % _SUM_MODULUS
        return [Bucket(bucket=number, count=count, sum=total) for number, (count, total) in sorted(buckets.items())]

    async def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        await self.faults.reach("get_row_hashes")
        rows = [row for _, row in self._hashes(request)]
        for start in range(0, len(rows), _HASHED_ROWS_A_BATCH):
            yield rows[start : start + _HASHED_ROWS_A_BATCH]
            await asyncio.sleep(0)

    def _hashes(self, request: ChecksumRequest) -> Iterator[tuple[int, RowHash]]:
        for _, key, document in self.store.documents(request.namespace):
            bucket = xxhash.xxh3_64_intdigest(key) % max(request.buckets, 1)
            if not request.only_buckets or bucket in request.only_buckets:
                yield bucket, RowHash(key=(bytes(key).hex(),), hash=xxhash.xxh3_128_digest(document))

    async def get_rows(self, request: RowsRequest) -> list[TextRow]:
        await self.faults.reach("get_rows")
        found = ((key, self.store.get(request.namespace, bytes.fromhex(key[0]))) for key in request.keys)
        return [(*key, *_texts(document, request.columns)) for key, document in found if document]

    async def count_rows(self, namespace: str) -> int:
        await self.faults.reach("count_rows")
        return self.store.count(namespace)


def _texts(document: bytes, columns: Sequence[str]) -> Iterator[str | None]:
    decoded = bson.decode(document)
    return (None if decoded.get(name) is None else str(decoded[name]) for name in columns)


def _keyed(document: bytes) -> tuple[bytes, bytes]:
    """A document with its id in front: the type byte and the bytes of the value, as in `BsonValue`."""
    element = bson.encode({"": bson.decode(document)["_id"]})
    return element[4:5] + element[6:-1], document


def _key_of(values: Sequence[BsonValue]) -> bytes:
    (value,) = values
    return struct.pack("B", value.type) + value.data
