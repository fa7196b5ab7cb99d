"""Ends in memory: one that computes checksums, one that only gives documents, and a store of progress."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bson
import xxhash

from dsync.protocol.errors import MissingObjectError, UnsupportedError
from dsync.protocol.interface import Connector
from dsync.protocol.types import (
    BsonValue,
    Bucket,
    ChecksumRequest,
    Column,
    DescribeRequest,
    Extensions,
    Info,
    KeyRange,
    NamespaceDescription,
    Page,
    PageType,
    Partition,
    Plan,
    PlanRequest,
    ReadRequest,
    RowHash,
    RowsRequest,
    SchemaDescription,
    SourceCapabilities,
    TextRow,
)

Record = dict[str, str | None]

_MASK = (1 << 128) - 1


@dataclass(kw_only=True)
class Table:
    """Rows of text."""

    columns: tuple[str, ...] = ("id", "note")
    key: tuple[str, ...] = ("id",)
    rows: list[Record] = field(default_factory=list)
    types: Mapping[str, str] = field(default_factory=dict)
    orders_everywhere: bool = True
    rowless: bool = False
    generated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, count: int, *, key: tuple[str, ...] = ("id",)) -> Table:
        return cls(key=key, rows=[{"id": f"{n:06}", "note": f"note {n}"} for n in range(count)])

    def describe(self, name: str) -> NamespaceDescription:
        return NamespaceDescription(
            namespace=name,
            columns=tuple(
                Column(
                    name=column,
                    type=self.types.get(column, "text"),
                    not_null=column in self.key,
                    key_position=self.key.index(column) + 1 if column in self.key else 0,
                    orders_everywhere=self.orders_everywhere,
                    generated=column in self.generated,
                )
                for column in self.columns
            ),
            estimated_rows=len(self.rows),
            size_bytes=100 * len(self.rows),
            rowless=self.rowless,
            kind="partitioned table" if self.rowless else "table",
        )


class ChecksumEnd(Connector):
    """An end that hashes where the data is; keys compare as text."""

    def __init__(self, tables: dict[str, Table], *, name: str = "one", dialect: str = "fake") -> None:
        self.tables = tables
        self.calls: list[tuple[str, Any]] = []
        self.before: Callable[[str], None] = lambda method: None
        """Called at the start of each call, to change rows or to fail."""
        self.hash_key = "salt"
        self.refused_algorithms: set[str] = set()
        self.streamed_rows = 0
        self.open_streams = 0
        self._name = name
        self._dialect = dialect

    async def get_info(self) -> Info:
        return Info(id=self._name, db_type="fake", source=SourceCapabilities())

    async def get_extensions(self) -> Extensions:
        return Extensions(
            services=frozenset({"ChecksumService", "SchemaService"}),
            checksum_dialect=self._dialect,
            schema_dialect=self._dialect,
        )

    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        self._called("describe", request)
        names = request.namespaces or tuple(self.tables)
        missing = [name for name in names if name not in self.tables]
        if missing:
            raise MissingObjectError(f"describing {missing[0]}: there is no such table")
        return SchemaDescription(namespaces=tuple(self.tables[name].describe(name) for name in names))

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[KeyRange]:
        self._called("plan_ranges", namespace)
        keys = sorted(_key(row, key) for row in self._rows(namespace))
        starts = keys[rows_per_range::rows_per_range]
        bounds = [(), *starts, ()]
        return [KeyRange(lower=low, upper=high) for low, high in itertools.pairwise(bounds)]

    async def get_checksum(self, request: ChecksumRequest) -> list[Bucket]:
        self._called("get_checksum", request)
        self._check(request)
        found: dict[int, tuple[int, int]] = {} if request.buckets > 1 else {0: (0, 0)}
        for row in self._selected(request):
            bucket = self._bucket(request, row)
            count, total = found.get(bucket, (0, 0))
            found[bucket] = count + 1, (total + int.from_bytes(self._hash(request, row), "big")) & _MASK
        return [Bucket(bucket=bucket, count=count, sum=total) for bucket, (count, total) in found.items()]

    async def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        self._called("get_row_hashes", request)
        self._check(request)
        self.open_streams += 1
        try:
            for batch in self._batches(self._hashes(request)):
                self.streamed_rows += len(batch)
                yield batch
        finally:
            self.open_streams -= 1

    async def get_rows(self, request: RowsRequest) -> list[TextRow]:
        self._called("get_rows", request)
        wanted = set(request.keys)
        return [
            tuple(row[column] for column in (*request.key, *request.columns))
            for row in self._rows(request.namespace)
            if _key(row, request.key) in wanted
        ]

    async def count_rows(self, namespace: str) -> int:
        self._called("count_rows", namespace)
        return len(self._rows(namespace))

    def calls_of(self, method: str) -> list[Any]:
        return [argument for name, argument in self.calls if name == method]

    def _called(self, method: str, argument: object) -> None:
        self.calls.append((method, argument))
        self.before(method)

    def _check(self, request: ChecksumRequest) -> None:
        if request.algorithm in self.refused_algorithms:
            raise UnsupportedError(f"algorithm {request.algorithm}")

    def _rows(self, namespace: str) -> list[Record]:
        if namespace not in self.tables:
            raise MissingObjectError(namespace)
        return self.tables[namespace].rows

    def _selected(self, request: ChecksumRequest) -> list[Record]:
        chosen = frozenset(request.only_buckets)
        low, high = request.range.lower, request.range.upper
        return [
            row
            for row in self._rows(request.namespace)
            if (not low or _key(row, request.key) >= low)
            and (not high or _key(row, request.key) < high)
            and (not chosen or self._bucket(request, row) in chosen)
        ]

    def _hash(self, request: ChecksumRequest, row: Record) -> bytes:
        text = repr([row[column] for column in request.columns]) + self.hash_key
        return hashlib.md5(text.encode()).digest()

    def _bucket(self, request: ChecksumRequest, row: Record) -> int:
        text = repr(_key(row, request.key)).encode() if request.key else self._hash(request, row)
        return xxhash.xxh3_64_intdigest(text) % request.buckets

    def _hashes(self, request: ChecksumRequest) -> list[RowHash]:
        rows = self._selected(request)
        if request.key:
            return [RowHash(key=_key(row, request.key), hash=self._hash(request, row)) for row in rows]
        counts: dict[bytes, int] = {}
        for row in rows:
            digest = self._hash(request, row)
            counts[digest] = counts.get(digest, 0) + 1
        return [RowHash(key=(digest.hex(),), hash=digest, count=count) for digest, count in counts.items()]

    @staticmethod
    def _batches(hashes: list[RowHash]) -> list[list[RowHash]]:
        return [hashes[start : start + 100] for start in range(0, len(hashes), 100)]


def _key(row: Record, key: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[column] or "" for column in key)


class DocumentEnd(Connector):
    """An end of adiom.v1 alone: BSON pages of ten documents."""

    def __init__(
        self,
        documents: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        name: str = "one",
        db_type: str = "docs",
        get_by_ids: bool = True,
        readable: bool = True,
    ) -> None:
        self.documents = {space: [bson.encode(d) for d in found] for space, found in documents.items()}
        self.reads = 0
        self._name = name
        self._db_type = db_type
        self._get_by_ids = get_by_ids
        self._readable = readable

    async def get_info(self) -> Info:
        source = SourceCapabilities(get_by_ids=self._get_by_ids) if self._readable else None
        return Info(id=self._name, db_type=self._db_type, source=source)

    async def count(self, namespace: str) -> int:
        if namespace not in self.documents:
            raise MissingObjectError(namespace)
        return len(self.documents[namespace])

    async def generate_plan(self, request: PlanRequest) -> Plan:
        (namespace,) = request.namespaces
        return Plan(partitions=tuple(Partition(namespace=namespace, value=half) for half in ("even", "odd")))

    async def list_data(self, request: ReadRequest) -> Page:
        self.reads += 1
        offset = int(request.cursor or b"0")
        mine = self.documents[request.partition.namespace][request.partition.value == "odd" :: 2]
        page = mine[offset : offset + 10]
        cursor = str(offset + 10).encode() if offset + 10 < len(mine) else b""
        return Page(type=PageType.BSON, rows=len(page), records=page, next_cursor=cursor)

    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        if not self._get_by_ids:
            raise UnsupportedError("GetByIds")
        found = {(d[4], d[9 : 9 + len(i.data)]): d for d in self.documents[namespace] for (i,) in ids}
        return [found.get((i.type, i.data), b"") for (i,) in ids]


class MemoryProgress:
    """A store that outlives a verification."""

    def __init__(self) -> None:
        self.saved: dict[str, dict[int, Mapping[str, Any]]] = {}
        self.on_save: Callable[[], None] = lambda: None

    async def load(self, namespace: str) -> Mapping[int, Mapping[str, Any]]:
        return dict(self.saved.get(namespace, {}))

    async def save(self, namespace: str, ordinal: int, result: Mapping[str, Any]) -> None:
        self.saved.setdefault(namespace, {})[ordinal] = result
        self.on_save()

    async def clear(self, namespace: str) -> None:
        self.saved.pop(namespace, None)
