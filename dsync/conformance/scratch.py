"""The scratch namespace: records of the kit's own are written, changed, read back and removed there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from dsync.conformance.outcomes import SkippedError, expect
from dsync.conformance.reading import Reading, write_type
from dsync.conformance.records import Id, bson_id, decode, encode, encode_fields, id_of, number_key
from dsync.protocol import pages
from dsync.protocol.errors import DsyncError, UnsupportedError
from dsync.protocol.interface import Connector
from dsync.protocol.types import (
    Page,
    PageType,
    PlanRequest,
    ReadRequest,
    Update,
    UpdateType,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
)

TEXT, NUMBER = "text", "number"
"""The fields of the kit's records, beside the id: a string and a whole number."""
_MOST_ROWS_READ_BACK = 100_000
_CLEARED_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Item:
    """A record of the kit's own."""

    id: Id
    record: bytes
    fields: Mapping[str, Any]


class Scratch:
    """Writes as a coordinator does; what arrived is looked at by reading, never believed."""

    def __init__(self, subject: Reading) -> None:
        self._subject = subject
        self.namespace = subject.options.scratch
        # Far from ids that others may have given, and from those of an earlier examination.
        self._numbers = count((secrets.randbits(40) << 20) + 1)
        self._written: dict[Id, None] = {}

    @property
    def type(self) -> PageType:
        return write_type(self._subject.info)

    # ------------------------------------------------------------------ making

    def items(self, number: int, *, text: str = "conformance") -> list[Item]:
        """So many new records, each with an id that nobody else has."""
        return [self.item(self.number(), text=text) for _ in range(number)]

    def number(self) -> int:
        """An id that nobody else has."""
        return next(self._numbers)

    def item(self, id: object, *, text: str = "conformance", number: int = 1) -> Item:
        """A record with this id."""
        fields = {NUMBER: number, TEXT: text}
        record = encode(self.type, _plain(id), fields)
        found = id_of(record, self.type)
        assert found is not None, "what was just encoded has an id"
        # An update's id is a BSON value, whatever the type of the records.
        self.note(bson_id(_plain(id)))
        return Item(found, record, fields)

    def note(self, id: Id) -> None:
        """A record may come to have this id: it is removed at the end."""
        self._written[id] = None

    def changed(self, item: Item, *, text: str, number: int = 2) -> Item:
        """The same record with other fields."""
        fields = {NUMBER: number, TEXT: text}
        decoded = decode(self.type, item.record)
        assert decoded is not None, "a record of the kit's own can be read"
        return Item(item.id, encode(self.type, decoded["id" if self.type is PageType.JSON else "_id"], fields), fields)

    # ----------------------------------------------------------------- writing

    async def write(self, items: Iterable[Item], *, type: PageType | None = None) -> None:
        """By WriteData."""
        await self.write_records([item.record for item in items], type=type)

    async def write_records(self, records: Sequence[bytes], *, type: PageType | None = None) -> None:
        page = Page(type=self.type if type is None else type, rows=len(records), records=records)
        await self._subject.connector.write_data(WriteRequest(namespace=self.namespace, page=page))

    async def write_page(
        self, items: Iterable[Item], context: WriteContext | None = None, *, insert_only: bool = False
    ) -> int:
        """By WritePage."""
        records = [item.record for item in items]
        page = Page(type=self.type, rows=len(records), packed=pages.join_records(self.type, records))
        request = WriteRequest(namespace=self.namespace, page=page, context=context, insert_only=insert_only)
        return await self._subject.connector.write_page(request)

    async def apply(self, *updates: Update) -> None:
        """By WriteUpdates.

        Raises:
            SkippedError: the sink takes no changes, and says so.
        """
        request = WriteUpdatesRequest(namespace=self.namespace, updates=updates, type=self.type)
        try:
            await self._subject.connector.write_updates(request)
        except UnsupportedError as exc:
            raise SkippedError(
                "WriteUpdates is answered with UNIMPLEMENTED: no change can be brought by adiom.v1"
            ) from exc

    def put(self, kind: UpdateType, item: Item) -> Update:
        """An insert or an update of a whole record."""
        return Update(id=(self.key(item),), type=kind, data=item.record)

    def delete(self, item: Item) -> Update:
        return Update(id=(self.key(item),), type=UpdateType.DELETE)

    def part(self, item: Item, fields: Mapping[str, Any], unset: Sequence[str] = ()) -> Update:
        """A change of some fields."""
        return Update(
            id=(self.key(item),),
            type=UpdateType.PARTIAL_UPDATE,
            data=encode_fields(self.type, fields),
            partial_update_unset=tuple(unset),
        )

    def key(self, item: Item) -> Any:
        """The id of a record as an update carries it."""
        if item.id.type:
            return item.id.value
        decoded = decode(self.type, item.record)
        assert decoded is not None, "a record of the kit's own can be read"
        return bson_id(_plain(decoded["id"])).value

    # ------------------------------------------------------------ reading back

    @property
    def reader(self) -> Connector | None:
        """Who reads the namespace back: a connector given for it, or the sink where it is a source too."""
        return self._subject.options.reader or (self._subject.connector if self._subject.info.source else None)

    async def held(self) -> dict[Id, list[dict[str, Any]]]:
        """What the namespace holds, by id: fields of each record that has it."""
        reader = self.reader
        assert reader is not None, "a check that reads back needs a reader"
        info = await reader.get_info() if reader is not self._subject.connector else self._subject.info
        assert info.source is not None, "a reader is a source"
        page_type = next(kind for kind in (PageType.BSON, PageType.JSON) if kind in info.source.data_types)
        found: dict[Id, list[dict[str, Any]]] = {}
        rows = 0
        for partition in (await reader.generate_plan(PlanRequest(namespaces=(self.namespace,)))).partitions:
            cursor = b""
            while True:
                page = await reader.list_data(ReadRequest(partition=partition, type=page_type, cursor=cursor))
                for record in pages.records_of(page):
                    id, fields = id_of(record, page_type), decode(page_type, record)
                    if id is not None:
                        found.setdefault(number_key(id), []).append(fields or {})
                rows += page.rows
                if not page.next_cursor or page.next_cursor == cursor:
                    break
                if rows > _MOST_ROWS_READ_BACK:
                    raise SkippedError(f"{self.namespace} holds more than {_MOST_ROWS_READ_BACK:,} records: empty it")
                cursor = page.next_cursor
        return found

    async def expect_held(self, items: Iterable[Item], *, absent: Iterable[Item] = (), after: str) -> None:
        """Look whether exactly one record of each id is there, with its fields, and none of the absent ones.

        Raises:
            FailedError: it is otherwise.
        """
        held = await self.held()
        for item in items:
            there = held.get(number_key(item.id), [])
            expect(
                len(there) == 1,
                expected=f"{self.namespace} holds the record {item.id} once after {after}",
                seen=f"it is there {len(there)} times" if there else "it is not there",
            )
            differing = [name for name, value in item.fields.items() if there[0].get(name) != value]
            expect(
                not differing,
                expected=f"the record {item.id} is as it was written by {after}",
                seen=f"its {' and '.join(differing)} differs",
            )
        for item in absent:
            expect(
                number_key(item.id) not in held,
                expected=f"{self.namespace} does not hold the record {item.id} after {after}",
                seen="it is there",
            )

    # ---------------------------------------------------------------- clearing

    async def clear(self) -> int:
        """Remove what was written, as far as changes are taken; returns how many records may have stayed."""
        ids = list(self._written)
        updates = tuple(Update(id=(id.value,), type=UpdateType.DELETE) for id in ids)
        try:
            async with asyncio.timeout(self._subject.options.check_s):
                for start in range(0, len(updates), _CLEARED_AT_A_TIME):
                    await self.apply(*updates[start : start + _CLEARED_AT_A_TIME])
                    del ids[:_CLEARED_AT_A_TIME]
        except (SkippedError, DsyncError, TimeoutError):
            return len(ids)
        finally:
            self._written = dict.fromkeys(ids)
        return 0


def _plain(id: object) -> object:
    from bson.int64 import Int64

    # A whole number of 64 bits: a column for it is what every database has.
    return Int64(id) if type(id) is int else id
