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

IS_THOROUGH = settings.get_current_profile_name() == "thorough"

_THOROUGH_EXAMPLES = 150
_EXAMPLES = {(18, 18): 8, (15, 16): 2, (16, 18): 3, (18, 16): 3}


def _settings(examples: int) -> settings:
    return settings(
        max_examples=_THOROUGH_EXAMPLES if IS_THOROUGH else examples,
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

    assert accepted["row"] > 10 * _EXAMPLES[pair]
