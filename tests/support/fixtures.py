"""Fixtures that all tests may ask for; `tests/conftest.py` brings them in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from dsync.quickstart.servers import EmbeddedPostgres
from tests.support.databases import DatabaseFactory, PgPair, PgServers
from tests.support.proxy import FaultyProxy

OpenProxy = Callable[[str], Awaitable[FaultyProxy]]


@pytest.fixture(scope="session")
def pg_servers() -> Iterator[PgServers]:
    """The servers of this test process, by major version, started when first used."""
    servers = PgServers()
    yield servers
    servers.close()


@pytest.fixture
def pg15(pg_servers: PgServers) -> EmbeddedPostgres:
    """PostgreSQL 15 as Debian packages it; skips where that is not installed."""
    return pg_servers.shared(15)


@pytest.fixture
def pg16(pg_servers: PgServers) -> EmbeddedPostgres:
    """PostgreSQL 16."""
    return pg_servers.shared(16)


@pytest.fixture
def pg18(pg_servers: PgServers) -> EmbeddedPostgres:
    """PostgreSQL 18."""
    return pg_servers.shared(18)


@pytest.fixture
def pg(request: pytest.FixtureRequest, pg_servers: PgServers) -> EmbeddedPostgres:
    """The newest PostgreSQL, or the one of an indirect parameter: `parametrize("pg", [15, 18], indirect=True)`."""
    return pg_servers.shared(getattr(request, "param", 18))


@pytest.fixture
def pg_pair(request: pytest.FixtureRequest, pg_servers: PgServers) -> PgPair:
    """Source and sink server; 18 to 18, or `parametrize("pg_pair", [(15, 18)], indirect=True)`."""
    source, sink = getattr(request, "param", (18, 18))
    return PgPair(source=pg_servers.shared(source), sink=pg_servers.shared(sink))


@pytest.fixture
def source_db(pg_pair: PgPair) -> Iterator[DatabaseFactory]:
    """Makes databases at the source of the pair: `source_db().uri`, or `source_db(fill)` for a prepared one."""
    factory = DatabaseFactory(pg_pair.source, prefix="source")
    yield factory
    factory.drop_all()


@pytest.fixture
def sink_db(pg_pair: PgPair) -> Iterator[DatabaseFactory]:
    """Makes databases at the sink of the pair."""
    factory = DatabaseFactory(pg_pair.sink, prefix="sink")
    yield factory
    factory.drop_all()


@pytest.fixture
def database(pg: EmbeddedPostgres) -> Iterator[DatabaseFactory]:
    """Makes databases on `pg`, for tests of one server."""
    factory = DatabaseFactory(pg, prefix="one")
    yield factory
    factory.drop_all()


@pytest.fixture
def own_servers(pg_servers: PgServers) -> Iterator[PgServers]:
    """Makes servers for this test alone, `own_servers.own(16)`: the ones to kill, stop or configure."""
    yield pg_servers
    pg_servers.close_own()


@pytest_asyncio.fixture
async def open_proxy() -> AsyncIterator[OpenProxy]:
    """Puts a faulty proxy before a server: `proxy = await open_proxy(uri); proxy.through(uri)`."""
    async with AsyncExitStack() as proxies:

        async def open_one(uri: str) -> FaultyProxy:
            parts = urlsplit(uri)
            assert parts.hostname is not None
            assert parts.port is not None
            proxy = FaultyProxy(host=parts.hostname, port_behind=parts.port)
            return await proxies.enter_async_context(proxy)

        yield open_one
