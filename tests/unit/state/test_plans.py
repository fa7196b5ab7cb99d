"""Plans: stored whole, given back as planned, and replaced without a moment in which a crash could confuse them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsync.protocol.types import FinishStep, PageType, Partition
from dsync.state import (
    CheckpointRow,
    DeadLetterRow,
    FlowNotFoundError,
    NamespaceRow,
    NamespaceState,
    Phase,
    Store,
    UnitGoneError,
    UnitKind,
    UnitRow,
    finish_units,
    partition_units,
)
from tests.unit.state.support import planned_run, slices


def states(store: Store, flow: str, run: str) -> dict[str, tuple[NamespaceState, int, str]]:
    return {row.namespace: (row.state, row.generation, row.reason) for row in store.load_namespaces(flow, run)}


def test_a_plan_comes_back_exactly_and_in_its_order(store: Store) -> None:
    """A source gets its partition back unmodified, and finish steps their payload."""
    flow = store.create_flow(name=None, fingerprint="f", spec={}).flow
    run = store.new_run(flow, mode="copy").run
    rows = [
        NamespaceRow(
            namespace=name,
            target=f"to {name}",
            position=position,
            page_type=PageType.PG_COPY_TEXT,
            columns=('a"b', "c,d", "é😀"),
            upsert=True,
            existed=True,
            estimated_rows=2**40,
            size_bytes=2**45,
            reason="text: the table has a tsquery",
        )
        for position, name in enumerate(('"Odd.Name"."x:y"', "a", "Z", "é😀"))
    ]
    units = [
        unit
        for row in rows
        for unit in partition_units(
            row.namespace,
            row.position,
            [
                Partition(namespace=row.namespace, header="H", value="v\n", cursor=b"\x00\xff", estimated_count=2**50)
                for _ in range(12)
            ],
        )
    ]
    steps = finish_units(
        FinishStep(
            id=f"{kind}-{number}",
            kind=kind,
            name="n",
            namespace="a",
            depends_on=("x", "y"),
            payload=b"\x00",
            needs_source=True,
        )
        for number, kind in enumerate(("index", "constraint", "sequence"))
    )
    store.save_plan(flow, run, rows, [*reversed(units), *steps], snapshot=b"\x00s", phase=Phase.COPYING)

    assert store.load_namespaces(flow, run) == tuple(rows)
    assert store.load_units(flow, run) == (*units, *steps)
    assert store.load_units(flow, run, namespace="Z") == tuple(unit for unit in units if unit.namespace == "Z")
    assert store.load_units(flow, run, kind=UnitKind.FINISH) == steps
    kept = store.get_run(flow, run)
    assert kept is not None
    assert (kept.snapshot, kept.phase) == (b"\x00s", Phase.COPYING)


def test_a_plan_is_stored_whole_or_not_at_all(store: Store) -> None:
    """A crash or an error half-way leaves a run without a plan, which is planned again."""
    flow = store.create_flow(name=None, fingerprint="f", spec={}).flow
    run = store.new_run(flow, mode="copy").run
    rows = [NamespaceRow(namespace="a", target="a", position=0)]
    twice = partition_units("a", 0, slices("a", 1)) * 2
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.save_plan(flow, run, rows, twice, snapshot=b"s", phase=Phase.COPYING)
    assert [*store.load_namespaces(flow, run), *store.load_units(flow, run)] == []
    kept = store.get_run(flow, run)
    assert kept is not None
    assert (kept.snapshot, kept.phase) == (b"", Phase.CHECKING)


def test_units_that_an_earlier_run_has_done_arrive_with_the_plan(store: Store) -> None:
    flow = store.create_flow(name=None, fingerprint="f", spec={}).flow
    run = store.new_run(flow, mode="copy").run
    rows = [NamespaceRow(namespace="a", target="a", position=0)]
    carried = [CheckpointRow(unit="p0.0.0", rows=9, done=True)]
    store.save_plan(flow, run, rows, partition_units("a", 0, slices("a", 2)), checkpoints=carried)
    assert [(row.unit, row.rows, row.done) for row in store.load_checkpoints(flow, run).values()] == [
        ("p0.0.0", 9, True)
    ]


def test_finish_steps_can_be_added_again_without_harm(store: Store) -> None:
    run = planned_run(store)
    before = store.load_units(run.flow, run.run, kind=UnitKind.FINISH)
    changed = FinishStep(id="index-1", kind="index", name="changed")
    new = FinishStep(id="index-2", kind="index", name="i2")
    store.add_units(run.flow, run.run, finish_units([changed, new]))
    after = store.load_units(run.flow, run.run, kind=UnitKind.FINISH)
    assert set(before) < set(after)
    assert {unit.unit for unit in after} - {unit.unit for unit in before} == {"f1.index-2"}


def test_a_unit_is_a_partition_or_a_step() -> None:
    with pytest.raises(ValueError, match="u1"):
        UnitRow(unit="u1", kind=UnitKind.PARTITION, namespace="a", ordinal=0)
    with pytest.raises(ValueError, match="u2"):
        UnitRow(
            unit="u2",
            kind=UnitKind.FINISH,
            namespace="a",
            ordinal=0,
            partition=Partition(namespace="a"),
            step=FinishStep(id="s", kind="k", name="n"),
        )


def test_the_ids_of_units_are_new_in_every_generation() -> None:
    """A sink's ledger knows a unit by its id, so one that is read again must not look like the one before."""
    ids = [
        unit.unit
        for generation in (0, 1)
        for position, name in enumerate("ab")
        for unit in partition_units(name, position, slices(name, 3), generation=generation)
    ]
    assert len(set(ids)) == len(ids)


def test_planning_a_namespace_anew_retires_its_units_until_the_sink_is_clear(
    store: Store, open_store: Callable[[], Store]
) -> None:
    """A restart between any two of these steps knows what the sink still holds of the old units."""
    run = planned_run(store)
    key = run.flow, run.run
    old = tuple(unit.unit for unit in store.load_units(*key, namespace="t1"))
    store.set_namespace_state(*key, "t1", NamespaceState.COPYING)
    store.save_checkpoints(*key, [CheckpointRow(unit=old[0], rows=5), CheckpointRow(unit="p0.0.0", rows=3)])

    made = store.replace_units(*key, "t1", slices("t1", 2, "new"), reason="it was rewritten")

    for seen in (store, open_store()):
        assert seen.load_units(*key, namespace="t1") == made
        assert states(seen, *key) == {
            "t0": (NamespaceState.PENDING, 0, ""),
            "t1": (NamespaceState.CLEARING, 1, "it was rewritten"),
        }
        assert seen.retired_units(*key, "t1") == old
        assert {unit for unit, _ in seen.load_checkpoints(*key)} == {"p0.0.0"}
    assert not {unit.unit for unit in made} & set(old)
    assert [unit.partition.value for unit in made if unit.partition] == ["new0", "new1"]

    store.namespace_cleared(*key, "t1", sink="1")
    store.namespace_cleared(*key, "t1", sink="1")
    assert store.retired_units(*key, "t1") == ()
    assert states(store, *key)["t1"] == (NamespaceState.PENDING, 1, "it was rewritten")


def test_finish_steps_of_a_namespace_stay_when_it_is_planned_anew(store: Store) -> None:
    run = planned_run(store)
    store.replace_units(run.flow, run.run, "t0", [])
    assert [unit.unit for unit in store.load_units(run.flow, run.run, namespace="t0")] == ["f1.index-1"]


def test_a_straggler_cannot_record_progress_of_a_unit_that_was_replaced(store: Store) -> None:
    """What it wrote is about to be removed from the sink: counting it would make rows disappear from the copy."""
    run = planned_run(store)
    store.replace_units(run.flow, run.run, "t1", slices("t1", 1))
    with pytest.raises(UnitGoneError, match=r"p1\.0\.0"):
        store.save_checkpoint(run.flow, run.run, CheckpointRow(unit="p1.0.0", rows=1))
    letter = DeadLetterRow(
        unit="p1.0.0",
        namespace="t1",
        cursor_digest=b"",
        row_index=0,
        reason="r",
        error_class="RecordError",
        payload=b"hunter2",
        page_type=PageType.BSON,
    )
    with pytest.raises(UnitGoneError) as caught:
        store.add_dead_letters(run.flow, run.run, [letter])
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


def test_with_several_sinks_the_last_one_to_be_clear_forgets_the_retired_units(store: Store) -> None:
    flow = store.create_flow(name=None, fingerprint="f", spec={}).flow
    run = store.new_run(flow, mode="copy").run
    rows = [NamespaceRow(namespace="a", target="a", position=0, sink=sink) for sink in ("1", "2")]
    store.save_plan(flow, run, rows, partition_units("a", 0, slices("a", 1)))
    store.replace_units(flow, run, "a", slices("a", 2))
    store.namespace_cleared(flow, run, "a", sink="2")
    assert [row.state for row in store.load_namespaces(flow, run)] == [NamespaceState.CLEARING, NamespaceState.PENDING]
    assert store.retired_units(flow, run, "a") == ("p0.0.0",)
    store.namespace_cleared(flow, run, "a", sink="1")
    assert store.retired_units(flow, run, "a") == ()
    store.set_namespace_state(flow, run, "a", NamespaceState.STOPPED, reason="full", sink="2")
    assert [row.state for row in store.load_namespaces(flow, run)] == [NamespaceState.PENDING, NamespaceState.STOPPED]


def test_a_new_snapshot_and_what_follows_from_it_are_one_step(store: Store) -> None:
    """Were the snapshot recorded alone, a restart would judge by it and miss what had changed before it."""
    run = planned_run(store, namespaces=3)
    key = run.flow, run.run
    store.apply_verdicts(
        *key,
        snapshot=b"snapshot-2",
        again={"t0": slices("t0", 1)},
        changed={"t2": "4 rows are newer"},
        reasons={"t0": "it has changed"},
    )
    assert states(store, *key) == {
        "t0": (NamespaceState.CLEARING, 1, "it has changed"),
        "t1": (NamespaceState.PENDING, 0, ""),
        "t2": (NamespaceState.CHANGED, 0, "4 rows are newer"),
    }
    kept = store.get_run(*key)
    assert kept is not None
    assert kept.snapshot == b"snapshot-2"

    with pytest.raises(FlowNotFoundError, match="unplanned"):
        store.apply_verdicts(*key, snapshot=b"snapshot-3", again={"t1": slices("t1", 1), "unplanned": []})
    kept = store.get_run(*key)
    assert kept is not None
    assert kept.snapshot == b"snapshot-2"
    assert states(store, *key)["t1"] == (NamespaceState.PENDING, 0, "")


def test_a_thousand_namespaces_are_planned_in_well_under_a_second(store: Store) -> None:
    """Seen: 40 ms. The bound only notices when it is done row by row."""
    import time

    began = time.process_time()
    planned_run(store, namespaces=1000, partitions=1)
    assert time.process_time() - began < 1.0
