"""Reading a namespace as BSON documents, page after page, and single documents by id."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from dsync.coordinator.copier import CycleGuard
from dsync.protocol import pages
from dsync.protocol.errors import PluginBugError
from dsync.protocol.types import PageType, Partition, PlanRequest, ReadRequest
from dsync.verify.canonical import id_bson, id_key
from dsync.verify.ends import VerifyEnd

_IDS_PER_CALL = 100
_MOST_BYTES = 64 * 1024 * 1024
_EMBEDDED = 0x03


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The documents of one namespace at one end."""

    end: VerifyEnd
    namespace: str
    page_bytes: int

    async def read(self) -> AsyncGenerator[Sequence[bytes], None]:
        """Every document once, in pages, in no order."""
        plan = await self.end.connector.generate_plan(PlanRequest(namespaces=(self.namespace,)))
        for partition in plan.partitions:
            async for records in self._partition(partition):
                yield records

    async def _partition(self, partition: Partition) -> AsyncGenerator[Sequence[bytes], None]:
        request = ReadRequest(partition=partition, type=PageType.BSON, page_bytes=self.page_bytes)
        guard = CycleGuard(request.cursor)
        while True:
            page = await self.end.connector.list_data(request)
            yield pages.records_of(page)
            if not page.next_cursor:
                return
            if not guard.step(page.next_cursor):
                raise PluginBugError(
                    f"verify: the {self.end.name} ({self.end.info.db_type}) gave the same cursor twice while "
                    f"{self.namespace} was read; its connector never comes to an end"
                )
            request = dataclasses.replace(request, cursor=page.next_cursor)

    async def fetch(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """The documents with these ids, as far as they are there: by id where the end can, else by reading all.

        None stands for one that is there, where the others already weigh too much to hold it as well.
        """
        # An embedded document as an id is one value to MongoDB and several to others, so that asking is ambiguous.
        asked = [key for key in keys if self.end.reads_by_id and key[0] != _EMBEDDED]
        found = await self._by_id(asked)
        sought = frozenset(keys).difference(asked)
        if sought:
            await self._search(sought, found)
        return found

    async def _search(self, sought: frozenset[bytes], found: dict[bytes, bytes | None]) -> None:
        """Read until all of them are found; to the end where one is not there."""
        held_bytes = sum(len(record) for record in found.values() if record)
        left = set(sought)
        async with aclosing(self.read()) as every:
            async for records in every:
                for record in records:
                    if (key := id_key(record)) in left:
                        left.remove(key)
                        held_bytes += len(record)
                        found[key] = record if held_bytes <= _MOST_BYTES else None
                if not left:
                    return

    async def _by_id(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        found: dict[bytes, bytes | None] = {}
        for start in range(0, len(keys), _IDS_PER_CALL):
            some = keys[start : start + _IDS_PER_CALL]
            ids = [(id_bson(key),) for key in some]
            records = await self.end.connector.get_by_ids(self.namespace, ids, PageType.BSON)
            found.update((key, record) for key, record in zip(some, records, strict=True) if record)
        return found
