"""Tables are copied anew beside a stream, and the coordinator is killed at each step of it and gone on with."""

from __future__ import annotations

import asyncio

import pytest

from dsync.app import asking
from tests.crash.conftest import MakeFlow
from tests.crash.followed import fill, working
from tests.crash.lives import Flow
from tests.crash.test_streams import check_equal, check_running

RESYNC_POINTS = (
    "coordinator.before_leave",
    "coordinator.after_leave",
    "coordinator.before_resync_plan",
    "coordinator.before_resync_record",
    "coordinator.after_resync_record",
    "coordinator.before_resync_copied",
    "coordinator.after_resync_copied",
    "coordinator.before_rejoin",
    "coordinator.after_rejoin",
)
_AMID_COPY = "coordinator.after_page@4"
STEPS = (*RESYNC_POINTS[:5], _AMID_COPY, *RESYNC_POINTS[5:])
"""The steps at which one life after the other is killed, each a little further than the one before."""


@pytest.fixture
def followed(make_flow: MakeFlow) -> Flow:
    return make_flow(prepare=fill, mode="full", arguments=("--until-caught-up",))


def test_a_resync_is_gone_on_with_wherever_it_is_killed(followed: Flow) -> None:
    """What somebody has spoilt at the sink is as it should be; nothing of the other tables is lost or doubled."""
    with working(followed.source) as application:
        first = followed.run()
        check_running(first)
        followed.sink.run(
            "UPDATE wide SET small = -1",
            "DELETE FROM keyless WHERE id % 3 = 0",
            "UPDATE parents SET filling = 'spoilt'",
        )
        reply = asyncio.run(asking.resync(followed.location, first.result["flow"], ("wide", "keyless", "parents")))
        assert reply.holder is None
        for step in STEPS:
            name, _, count = step.partition("@")
            followed.run_until_killed(f"{name}:exit@{count or 1}")
            application.write_more(20)
        check_running(followed.run())
    ending = followed.run()
    assert ending.result["moved_rows"] == 0
    check_equal(followed, ending)
