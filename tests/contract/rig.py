"""The memory connector behind each of the ways in which a coordinator reaches a connector."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import bson

from dsync.plugins.manager import OpenEndpoint, OpenOptions, open_endpoint
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import page_store, runtime_directory
from dsync.protocol.channel import Deadlines, Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.interface import Connector
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import Page, Partition, ReadRequest, SessionRequest, WriteContext, WriteRequest
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.testing.faults import Faults
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.testing.memory_store import MemoryStore

Way = Literal["inline", "server", "process"]
WAYS: tuple[Way, ...] = ("inline", "server", "process")

REGISTRY = Registry.installed(also=[("memory", "dsync.sdk.testing.memory_plugin:SPEC")])
QUICK = Deadlines(contact_s=5, session_s=5, data_s=5, work_s=5)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a test wants of the connector."""

    faults: tuple[str, ...] = ()
    partition_rows: int = 1000
    deadlines: Deadlines = QUICK
    by_reference: bool = False


@dataclass(kw_only=True)
class Rig:
    """A connector as a coordinator sees it, and the documents behind it as a database's user sees them."""

    connector: Connector
    store: MemoryStore
    pages: PageStore
    by_reference: bool
    endpoint: OpenEndpoint | None = None

    def fill(self, namespace: str, rows: int, *, record_bytes: int = 200) -> list[bytes]:
        """Documents `{_id: 0…}` past the protocol; returns their bytes in order."""
        MemoryConnector(self.store).serve(namespace, rows, record_bytes=record_bytes)
        return self.documents(namespace)

    def documents(self, namespace: str) -> list[bytes]:
        return [bytes(document) for _, _, document in self.store.documents(namespace)]

    async def open_session(self, *, page_bytes: int = 256 * 1024) -> bytes:
        return await self.connector.open_session(
            SessionRequest(
                flow="f",
                run="r",
                page_bytes=page_bytes,
                page_directory=str(self.pages.directory) if self.by_reference else "",
                page_probe=self.pages.write_probe(b"proof") if self.by_reference else "",
            )
        )

    async def read(self, partition: Partition, cursor: bytes = b"") -> Page:
        return await self.connector.read_page(
            ReadRequest(partition=partition, cursor=cursor, by_reference=self.by_reference)
        )

    async def read_all(self, partition: Partition) -> list[Page]:
        """Every page of a partition."""
        pages = [await self.read(partition)]
        while pages[-1].next_cursor:
            pages.append(await self.read(partition, pages[-1].next_cursor))
        return pages

    def body(self, page: Page) -> bytes:
        page = self.pages.loaded(page)
        return bytes(page.packed) if page.packed is not None else b"".join(page.records or ())

    async def write(self, namespace: str, page: Page, context: WriteContext | None = None) -> int:
        request = WriteRequest(namespace=namespace, page=page, context=context)
        return await self.connector.write_page(request)


def document(number: int, **fields: object) -> bytes:
    return bson.encode({"_id": number, **fields})


@asynccontextmanager
async def open_rig(way: Way, folder: Path, setup: Setup) -> AsyncIterator[Rig]:
    """A rig reached in this way; its documents are in a file that a child process can open too."""
    path = folder / "documents.sqlite"
    store = MemoryStore(str(path))
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        runtime = stack.enter_context(runtime_directory())
        pages = stack.enter_context(page_store(runtime, need_bytes=1024 * 1024))
        rig = Rig(connector=Connector(), store=store, pages=pages, by_reference=setup.by_reference)
        if way == "server":
            own = MemoryConnector(store, faults=Faults(setup.faults), partition_rows=setup.partition_rows)
            address = await stack.enter_async_context(
                serving(own, ServeOptions(address=f"unix:{runtime}/s.sock", grace_s=0))
            )
            rig.connector = RemoteConnector(Target(address=address, name="memory"), deadlines=setup.deadlines)
            stack.push_async_callback(rig.connector.close)
        else:
            uri = f"memory://{path}?partition_rows={setup.partition_rows}&fault={','.join(setup.faults)}"
            settings = OpenOptions(attach=way, deadlines=setup.deadlines, grace_s=5)
            rig.endpoint = await stack.enter_async_context(
                open_endpoint(uri, registry=REGISTRY, runtime=runtime, label="source", settings=settings)
            )
            rig.connector = rig.endpoint.connector
        yield rig
