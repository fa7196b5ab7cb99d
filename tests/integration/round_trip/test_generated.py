"""Whatever schema and values there are: the copy is the source, by dsync's own verdict and by another one."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from tests.integration.round_trip.judge import differences
from tests.integration.round_trip.running import Copier
from tests.integration.round_trip.schemas import Schema, learn_abilities, schemas
from tests.support.databases import Database, DatabaseFactory, PgServers

# A failing example is shown by the statements it ran (`note`), not by its representation, however large that is.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

IS_THOROUGH = settings.get_current_profile_name() == "thorough"

# The first example is always next to nothing.
_EXAMPLES = {(18, 18): 8, (15, 16): 5, (16, 18): 5, (18, 16): 5}


def _settings(examples: int) -> settings:
    return settings(
        max_examples=settings().max_examples if IS_THOROUGH else examples,
        # The same examples every time, unless somebody looks for more.
        derandomize=not IS_THOROUGH,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if IS_THOROUGH else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def _databases(servers: PgServers, source_major: int, sink_major: int) -> Iterator[tuple[Database, Database]]:
    sources = DatabaseFactory(servers.shared(source_major), prefix="source")
    sinks = DatabaseFactory(servers.shared(sink_major), prefix="sink")
    try:
        yield sources(), sinks()
    finally:
        sources.drop_all()
        sinks.drop_all()


def _copy_all(servers: PgServers, source_major: int, sink_major: int, examples: int, attach: str) -> Counter[str]:
    accepted: Counter[str] = Counter()
    with _databases(servers, source_major, sink_major) as databases:
        abilities = learn_abilities(databases)

    @_settings(examples)
    @given(schemas(abilities))
    def copy_one(schema: Schema) -> None:
        with (
            _databases(servers, source_major, sink_major) as (source, sink),
            tempfile.TemporaryDirectory(prefix="dsync-rt-") as folder,
        ):
            accepted.update(schema.fill(source)[0])
            copier = Copier(source=source, sink=sink, state=Path(folder) / "state.db")
            copied = asyncio.run(copier(attach=attach))
            note(copied.explained())
            assert copied.exit_code == 0, copied.explained()
            assert differences(source, sink) == []

    copy_one()
    return accepted


@pytest.mark.timeout(0 if IS_THOROUGH else 240)
@pytest.mark.parametrize("pair", _EXAMPLES, ids=lambda pair: "to".join(map(str, pair)))
def test_a_copy_is_its_source(pg_servers: PgServers, pair: tuple[int, int]) -> None:
    accepted = _copy_all(pg_servers, *pair, _EXAMPLES[pair], "inline")

    assert accepted["row"] > 20


@pytest.mark.timeout(0 if IS_THOROUGH else 240)
def test_processes_give_the_same(pg_servers: PgServers) -> None:
    """Over gRPC and files in shared memory instead of by reference."""
    accepted = _copy_all(pg_servers, 16, 18, 2, "process")

    assert accepted["table"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE t SET v = 'A' WHERE id = 1", "table public.t"),
        ("DELETE FROM t WHERE id = 1", "table public.t"),
        ("INSERT INTO t VALUES (3, 'b')", "table public.t"),
        ("UPDATE t SET v = NULL WHERE v = 'null'", "table public.t"),
        ("SELECT nextval('s')", "sequence public.s"),
        ("CREATE INDEX more ON t (v)", "only the sink's dump has"),
        ("ALTER TABLE t DROP CONSTRAINT k", "only the source's dump has"),
        ("REFRESH MATERIALIZED VIEW m", "table public.m"),
    ],
)
def test_the_judge_sees_the_smallest_difference(source: Database, sink: Database, change: str, said: str) -> None:
    """Its silence is worth something."""
    for database in (source, sink):
        database.run(
            "CREATE TABLE t (id int, v text CONSTRAINT k CHECK (v <> 'x'))",
            "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (2, 'b'), (4, 'null')",
            "CREATE SEQUENCE s",
            "CREATE MATERIALIZED VIEW m AS SELECT * FROM t WITH NO DATA",
        )
    assert differences(source, sink) == []
    with sink.connect() as connection:
        connection.execute(change.encode())

    assert any(line.startswith(said) for line in differences(source, sink))
