"""What a sink would hold: pages written by key, and changes applied after them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

from dsync_postgres.sink.apply.records import read_record

from dsync.protocol.frames import stretches
from dsync.sdk import types
from tests.integration.postgres_source.support import Source

Row = tuple[str, ...]
_END = b"the end of this test"


@dataclass(kw_only=True)
class Twin:
    """The rows of some tables, of two columns each; the first of them is the key, where there is one."""

    keyless: frozenset[str] = frozenset()
    seen_through: dict[str, int] = field(default_factory=dict)
    keyed_rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    bare_rows: Counter[tuple[str, Row]] = field(default_factory=Counter)

    def put(self, namespace: str, row: Row) -> None:
        if namespace in self.keyless:
            self.bare_rows[namespace, row] += 1
        else:
            self.keyed_rows[namespace, row[0]] = row

    def drop(self, namespace: str, row: Row) -> None:
        if namespace in self.keyless:
            self.bare_rows[namespace, row] -= 1
        else:
            self.keyed_rows.pop((namespace, row[0]), None)

    def clear(self, namespace: str) -> None:
        """Forget all rows of a table."""
        self.keyed_rows = {key: row for key, row in self.keyed_rows.items() if key[0] != namespace}
        self.bare_rows = Counter({key: count for key, count in self.bare_rows.items() if key[0] != namespace})

    def page(self, namespace: str, lines: list[bytes]) -> None:
        """Write the lines of a page of text COPY."""
        for line in lines:
            self.put(namespace, tuple(line.decode().split("\t")))

    def rows(self, namespace: str) -> Counter[Row]:
        """What is there of a table."""
        found = Counter(row for (name, _), row in self.keyed_rows.items() if name == namespace)
        found.update({row: count for (name, row), count in self.bare_rows.items() if name == namespace and count})
        return found

    async def follow(self, source: Source, updates: types.UpdatesPartition) -> None:
        """Apply everything that has been committed until now."""
        await source.connector.mark(updates.namespaces, _END)
        request = types.StreamChangesRequest(
            namespaces=updates.namespaces, type=types.ChangeType.PG_OUTPUT, cursor=updates.cursor
        )
        async with asyncio.timeout(60), aclosing(source.connector.stream_changes(request)) as frames:  # type: ignore[type-var]
            async for frame in frames:
                self.apply(frame)
                if _END in bytes(frame.body):
                    return

    def apply(self, frame: types.ChangeFrame) -> None:
        """Apply a frame."""
        places, start = [], 0
        for size in memoryview(frame.sizes).cast("I"):
            places.append((start, start + size))
            start += size
        relation_of = memoryview(frame.relation_of).cast("H")
        for stretch in stretches(frame):
            for index in range(stretch.start, stretch.end):
                relation = frame.relations[relation_of[index]]
                operation = types.Operation(frame.operations[index])
                if operation in (types.Operation.RESHAPE, types.Operation.MARK):
                    continue
                if stretch.transaction <= self.seen_through.get(relation.namespace, 0):
                    continue
                if operation is types.Operation.TRUNCATE:
                    self.clear(relation.namespace)
                    continue
                old, new, lacks = read_record(bytes(frame.body), *places[index], len(relation.columns))
                assert not lacks
                if old is not None:
                    self.drop(relation.namespace, _text(old))
                if new is not None:
                    self.put(relation.namespace, _text(new))


def _text(values: object) -> Row:
    assert isinstance(values, list)
    return tuple("\\N" if value is None else value.decode() for value in values)
