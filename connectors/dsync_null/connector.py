"""The null sink: it looks at what it is given as far as counting needs, and forgets it.

Writing twice changes nothing, because nothing is kept; only the counts rise, unless there is a ledger that knows the
write again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dsync.sdk import Connector
from dsync.sdk.errors import RecordError, RequestError
from dsync.sdk.paging import PageExchange
from dsync.sdk.testing.faults import Faults
from dsync.sdk.types import (
    Buffer,
    Extensions,
    FlowManifest,
    Info,
    PageType,
    SessionRequest,
    SinkCapabilities,
    UnitRef,
    UnitState,
    UpdateType,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
)
from dsync_null.ledger import Ledger
from dsync_null.options import NullOptions

_BSON_INTEGERS = {0x10: 4, 0x12: 8}
_ID_OFFSET = 4 + 1 + len(b"_id\0")


@dataclass(slots=True, kw_only=True)
class Totals:
    """What a namespace has been given."""

    rows: int = 0
    size_bytes: int = 0
    pages: int = 0
    updates: int = 0


class NullConnector(Connector):
    """A counting sink without a ledger."""

    def __init__(self, name: str, options: NullOptions) -> None:
        self.totals: defaultdict[str, Totals] = defaultdict(Totals)
        """What was counted, by namespace."""
        self._name = name
        self._options = options
        self._types = tuple(PageType[kind.upper()] for kind in options.data_types)
        self._refused = frozenset(options.refuse_ids)
        self._faults = Faults(options.fault)
        self._exchange = PageExchange()

    # ------------------------------------------------------------ adiom.v1

    async def get_info(self) -> Info:
        await self._faults.reach("get_info")
        public = tuple(kind for kind in self._types if kind in (PageType.BSON, PageType.JSON))
        return Info(
            id=f"null:{self._name}",
            db_type="null",
            version="1",
            sink=SinkCapabilities(data_types=public),
        )

    async def count(self, namespace: str) -> int:
        await self._faults.reach("count")
        return self.totals[namespace].rows if namespace in self.totals else 0

    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        await self._faults.reach("write_updates")
        await self._take_time()
        if any(update.type is UpdateType.UNKNOWN for update in request.updates):
            raise RequestError(f"{request.namespace}: a change of a kind that null does not know")
        totals = self.totals[request.namespace]
        totals.updates += len(request.updates)
        totals.size_bytes += sum(len(update.data) for update in request.updates)

    # ------------------------------------------------------------ dsync.v1

    async def get_extensions(self) -> Extensions:
        await self._faults.reach("get_extensions")
        return Extensions(write_types=self._types, services=frozenset({"PageService"}), page_refs=True)

    async def open_session(self, request: SessionRequest) -> bytes:
        await self._faults.reach("open_session")
        return self._exchange.open(request)

    async def write_page(self, request: WriteRequest) -> int:
        size_bytes = await self._receive(request)
        self._note(request, size_bytes)
        return request.page.rows

    async def _receive(self, request: WriteRequest) -> int:
        """Take a page as a sink would, and say what it weighs."""
        await self._faults.reach("write_page")
        page = request.page
        if page.type not in self._types:
            raise RequestError(f"{request.namespace}: null was told not to take pages of type {page.type.name}")
        await self._take_time()
        with self._exchange.body(page) as body:
            if self._refused and page.type is PageType.BSON:
                self._refuse_ids(request.namespace, body)
            return len(body)

    def _note(self, request: WriteRequest, size_bytes: int) -> None:
        totals = self.totals[request.namespace]
        totals.rows += request.page.rows
        totals.size_bytes += size_bytes
        totals.pages += 1

    async def _take_time(self) -> None:
        if self._options.latency_ms:
            await asyncio.sleep(self._options.latency_ms / 1000)

    def _refuse_ids(self, namespace: str, body: Buffer) -> None:
        """Raises RecordError where a document of a page is to be refused."""
        data = bytes(body)
        position = 0
        while position < len(data):
            width = _BSON_INTEGERS.get(data[position + 4])
            at = position + _ID_OFFSET
            if width and data.startswith(b"_id\0", position + 5):
                number = int.from_bytes(data[at : at + width], "little", signed=True)
                if number in self._refused:
                    raise RecordError(f"{namespace}: a document breaks the constraint refuse_ids")
            position += int.from_bytes(data[position : position + 4], "little")


class LedgerNullConnector(NullConnector):
    """A counting sink whose ledger tells a repeated write from a new one."""

    def __init__(self, name: str, options: NullOptions) -> None:
        super().__init__(name, options)
        self._ledger = Ledger()

    async def get_extensions(self) -> Extensions:
        await self._faults.reach("get_extensions")
        return Extensions(
            write_types=self._types,
            services=frozenset({"PageService", "LedgerService"}),
            page_refs=True,
            transactional=True,
        )

    async def write_page(self, request: WriteRequest) -> int:
        context = request.context
        size_bytes = await self._receive(request)
        # From here on nothing waits, so that fence, counts and ledger are of one moment.
        if context is None:
            self._note(request, size_bytes)
        elif self._ledger.require(context):
            self._note(request, size_bytes)
            self._ledger.advance(context, rows=request.page.rows, size_bytes=size_bytes)
        return request.page.rows

    async def open_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        await self._faults.reach("open_units")
        return [self._ledger.open_unit(flow, unit) for unit in units]

    async def read_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        await self._faults.reach("read_units")
        return [self._ledger.read_unit(flow, unit) for unit in units]

    async def save_manifest(self, manifest: FlowManifest) -> None:
        await self._faults.reach("save_manifest")
        self._ledger.save_manifest(manifest)

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[FlowManifest]:
        await self._faults.reach("find_manifests")
        return [
            manifest
            for manifest in self._ledger.manifests()
            if flow in ("", manifest.flow) and fingerprint in ("", manifest.fingerprint)
        ]

    async def clear_namespace(self, context: WriteContext, namespace: str, units: Sequence[str]) -> None:
        await self._faults.reach("clear_namespace")
        self.totals.pop(namespace, None)
        self._ledger.reset(context.flow, units)

    async def forget_flow(self, flow: str) -> list[str]:
        await self._faults.reach("forget_flow")
        return self._ledger.forget(flow)


def make(name: str, options: NullOptions) -> NullConnector:
    """The sink that these options ask for."""
    return LedgerNullConnector(name, options) if options.ledger else NullConnector(name, options)
