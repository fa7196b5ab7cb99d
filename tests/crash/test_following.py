"""A source connector is killed while it begins to follow: the next life finds what is there, and loses no change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dsync_postgres.stream.begin import Names, begin_following, end_following
from dsync_postgres.stream.publication import find_publication
from dsync_postgres.stream.slots import find_slot

from tests.crash.lives import KILLED
from tests.integration.stream.support import sessions_of, table
from tests.support.databases import DatabaseFactory

FOLLOWING_POINTS = ("source.after_publication", "source.after_slot")
_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("step", FOLLOWING_POINTS)
async def test_what_a_killed_life_has_begun_is_found(database: DatabaseFactory, step: str) -> None:
    """The slot that is there is used, from where it was made; one that is not is made, under the publication found."""
    one, flow = database(), f"flow-{os.getpid()}-{os.urandom(4).hex()}"
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    life = subprocess.run(
        [sys.executable, "-m", "tests.crash.following", one.uri, flow],
        cwd=_ROOT,
        env={**os.environ, "DSYNC_FAIL": f"{step}:exit"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert life.returncode == KILLED, life.stderr
    names = Names.of(flow)
    async with sessions_of(one.uri, flow=flow) as sessions:
        assert await find_publication(sessions, names.publication) is not None
        slot = await find_slot(sessions, names.slot)
        assert (slot is not None) == (step == "source.after_slot")
        begun = await begin_following(sessions, names, [table("t")])
        assert (begun.holder is None) == (slot is not None)
        if slot is not None:
            assert begun.position.end_lsn == slot.confirmed_lsn
        if begun.holder is not None:
            await begun.holder.close()
        assert len(await end_following(sessions, names)) == 2
