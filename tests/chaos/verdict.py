"""What must hold when everybody rests: equal contents, or a table that was stopped for a reason which is known."""

from __future__ import annotations

from psycopg import sql

from dsync.app.status import flow_status
from tests.chaos.tables import columns, contents, tables, touch
from tests.chaos.world import ChaosFound, World
from tests.crash.lives import Ending
from tests.crash.oracles import check_nothing_left

_CATCH_UP_S = 300.0
_PLACES = "SELECT coalesce(sum(hashtext(ctid::text || ' ' || xmin::text)), 0)::int8 FROM ONLY {}"
_RELATIONS = """
SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY 1, 2
"""
_INDEXES = "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"


def check_end(world: World) -> None:
    """Catch up, compare everything (O1 to O6), and see that doing it again moves nothing.

    Raises:
        ChaosFound: with what is not as it should be.
    """
    touch(world.source)
    ending = _catch_up(world)
    stopped = ending.named
    unexplained = {name: reason for name, reason in stopped.items() if name.partition(".")[2] not in _excused(world)}
    if unexplained:
        raise ChaosFound(f"tables have stopped that nothing was done to: {unexplained}")
    if bool(stopped) is not (ending.exit_code == 6):
        raise ChaosFound(f"exit code {ending.exit_code} with {stopped}")
    _require_equal(world, {name.partition(".")[2] for name in stopped})
    _require_same_schema(world)
    _require_acknowledged_no_further(world, ending)
    before = _places(world)
    again = _catch_up(world)
    if _places(world) != before:
        raise ChaosFound("rows were written once more though nothing had changed")
    if again.named != stopped:
        raise ChaosFound(f"stopped at first {stopped}, then {again.named}")
    status = flow_status(world.flow.location, again.result["flow"])
    if status.is_running or status.error is not None or status.consistent is not again.result["consistent"]:
        raise ChaosFound(f"status says {status}")
    check_nothing_left(world.flow)


def _excused(world: World) -> set[str]:
    """Tables that may stop; the partitions of one stop with it."""
    return {*world.broken, *(("leaf_1", "leaf_2") if "leaves" in world.broken else ())}


def _catch_up(world: World) -> Ending:
    ending = world.flow.run("--until-caught-up", timeout_s=_CATCH_UP_S)
    if ending.exit_code not in (0, 6):
        raise ChaosFound(f"catching up ended with {ending.exit_code}: {ending.answer}\n{ending.log[-6000:]}")
    return ending


def _require_equal(world: World, stopped: set[str]) -> None:
    wrong = []
    for name in tables(world.source):
        if name in stopped:
            continue
        names = columns(world.source, name)
        missing = set(names) - set(columns(world.sink, name))
        if missing:
            wrong.append(f"{name} lacks {missing}")
        elif (there := contents(world.sink, name, names)) != (here := contents(world.source, name, names)):
            wrong.append(f"{name}: {here} at the source, {there} at the sink; {_difference(world, name, names)}")
    if wrong:
        raise ChaosFound("not equal: " + "; ".join(wrong))


def _difference(world: World, name: str, names: list[str]) -> str:
    """Some rows of either side that the other has not."""
    query = sql.SQL("SELECT left(x::text, 160), count(*) FROM (SELECT {} FROM ONLY {}) x GROUP BY x::text").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(name)
    )
    here, there = set(world.source.rows(query)), set(world.sink.rows(query))
    lost, added = sorted(here - there), sorted(there - here)
    return f"missing {len(lost)}: {lost[:4]}, too many {len(added)}: {added[:4]}"


def _require_same_schema(world: World) -> None:
    for query in (_RELATIONS, _INDEXES):
        here, there = set(world.source.rows(query)), set(world.sink.rows(query))
        differing = {item for item in here ^ there if not any(name in str(item) for name in world.broken)}
        if differing:
            raise ChaosFound(f"keys and indexes differ: {sorted(differing)}")


def _require_acknowledged_no_further(world: World, ending: Ending) -> None:
    """One slot, of which no more was let go than its log has (O2 shows in the contents: what was let go is here)."""
    slots = world.source.rows(
        "SELECT slot_name, active, confirmed_flush_lsn <= pg_current_wal_flush_lsn() FROM pg_replication_slots"
    )
    if len(slots) != 1 or slots[0][1:] != (False, True):
        raise ChaosFound(f"the source keeps {slots}")


def _places(world: World) -> dict[str, int]:
    """Where each row lies, and which transaction has written it."""
    return {name: world.sink.value(sql.SQL(_PLACES).format(sql.Identifier(name))) for name in tables(world.sink)}
