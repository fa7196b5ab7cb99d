"""One served connector, several coordinators: what one of them has agreed upon is never another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from dsync.plugins import shared
from dsync.protocol import errors
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.types import ChecksumRequest, ReadRequest, Role, SessionRequest
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.testing.memory_store import MemoryStore


class Member(MemoryConnector):
    """Remembers whether it was closed."""

    is_closed = False

    async def close(self) -> None:
        # The store is common, as a server's database is.
        self.is_closed = True


@dataclass
class Served:
    address: str
    store: MemoryStore
    members: list[Member]
    now_s: float = 0.0
    clients: list[RemoteConnector] = field(default_factory=list)

    def client(self) -> RemoteConnector:
        self.clients.append(RemoteConnector(Target(address=self.address, name="grpc://served")))
        return self.clients[-1]

    @property
    def closed(self) -> list[bool]:
        """Of the members that were made for a session."""
        return [member.is_closed for member in self.members[1:]]


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    store, members = MemoryStore(), list[Member]()
    MemoryConnector(store).serve("a", 2000, record_bytes=500)

    def make() -> Member:
        members.append(Member(store))
        return members[-1]

    plugin = shared.share(make, clock=lambda: found.now_s)
    found = Served("", store, members)
    async with serving(plugin, ServeOptions(address="127.0.0.1:0", grace_s=0)) as address:
        found.address = address
        yield found
        for client in found.clients:
            await client.close()
    await plugin.close()
    assert all(member.is_closed for member in members)


def session(flow: str, page_bytes: int = 64 * 1024, run: str = "r") -> SessionRequest:
    return SessionRequest(flow=flow, run=run, role=Role.SOURCE, page_bytes=page_bytes)


async def read_all(client: RemoteConnector) -> list[int]:
    """The rows of each page."""
    plan = await client.open_plan(["a"])
    rows, cursor = list[int](), b""
    while not rows or cursor:
        page = await client.read_page(ReadRequest(partition=plan.partitions[0], cursor=cursor))
        rows.append(page.rows)
        cursor = page.next_cursor
    return rows


async def test_flows_that_share_a_connector_keep_their_own_settings_and_snapshots() -> None:
    """The second one opens its session, and plans, in the middle of the first one's pages."""
    async with served() as both:
        small, large = both.client(), both.client()
        assert await small.open_session(session("f", 16 * 1024)) == b""
        plan = await small.open_plan(["a"])
        await large.open_session(session("g", 4 * 1024 * 1024))
        whole = await large.open_plan(["a"])
        first, other = await asyncio.gather(
            small.read_page(ReadRequest(partition=plan.partitions[0])),
            large.read_page(ReadRequest(partition=whole.partitions[0])),
        )
        assert 0 < first.rows < 40 < other.rows
        # A snapshot belongs to its session.
        with pytest.raises(errors.SnapshotLostError):
            await large.read_page(ReadRequest(partition=plan.partitions[0]))
        assert (await small.read_page(ReadRequest(partition=plan.partitions[0]))).rows == first.rows
        assert len(both.members) == 3


async def test_what_belongs_to_no_session_needs_none() -> None:
    """Who it is, what it can do, and what a sink remembers is asked before there is a flow."""
    async with served() as both:
        client = both.client()
        assert (await client.get_info()).db_type == "memory"
        assert {"PageService", "LedgerService", "PlanService"} <= (await client.get_extensions()).services
        assert await client.find_manifests(flow="f") == []
        assert [batch async for batch in client.get_row_hashes(ChecksumRequest(namespace="none", columns=()))] == []
        assert len(both.members) == 1


async def test_a_coordinator_that_says_good_bye_leaves_nothing() -> None:
    async with served() as both:
        client, other = both.client(), both.client()
        await client.open_session(session("f"))
        await other.open_session(session("g"))
        await client.close()
        assert both.closed == [True, False]
        assert sum(await read_all(other)) == 1000, "one partition"


async def test_a_coordinator_that_was_killed_finds_what_is_held_for_its_run() -> None:
    """By the run's name: the snapshot is still there. What nobody comes back to is let go of in the end."""
    async with served() as both:
        killed = both.client()
        await killed.open_session(session("f"))
        plan = await killed.open_plan(["a"])
        killed._session = None  # It says nothing when it ends.
        again = both.client()
        await again.open_session(session("f"))
        assert (await again.read_page(ReadRequest(partition=plan.partitions[0]))).rows > 0
        again._session = None
        both.now_s += shared.FORGOTTEN_AFTER_S + 1
        await both.client().open_session(session("g"))
        assert both.closed == [True, False]


async def test_a_session_that_is_not_known_any_more_has_to_be_opened_again() -> None:
    """Nobody reads by terms that were agreed with somebody else, or with nobody."""
    async with served() as both:
        client = both.client()
        await client.open_session(session("f", 16 * 1024))
        both.now_s += shared.FORGOTTEN_AFTER_S + 1
        await both.client().open_session(session("g"))
        with pytest.raises(errors.ServerUnavailableError, match="open it again"):
            await client.open_plan(["a"])
        await client.open_session(session("f", 16 * 1024))
        assert max(await read_all(client)) < 40
