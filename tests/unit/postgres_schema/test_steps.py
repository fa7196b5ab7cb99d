"""Steps come in an order that builds, and may run side by side only where they do not wait for one another."""

from __future__ import annotations

import pytest
from dsync_postgres.schema.errors import DefinitionError
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.steps import BuildStep, Draft, LockOrder, SequenceTarget, Statement, ordered
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk import types

_TABLES = [TableName(schema="s", name=name) for name in "abcd"]


def _step(step_id: str) -> BuildStep:
    return BuildStep(id=step_id, kind="index", name=step_id, namespace="", statements=())


@st.composite
def _drafts(draw: st.DrawFn) -> list[Draft]:
    count = draw(st.integers(0, 12))
    tables = st.frozensets(st.sampled_from(_TABLES), max_size=2)
    return [
        Draft(
            step=_step(draw(st.sampled_from(["x", "y", f"z{at}"]))),
            key=at,
            # Entries before this one, as in an archive, and some that have no step.
            needs=draw(st.frozensets(st.integers(0, max(at - 1, 0)) | st.integers(100, 105), max_size=3)) - {at},
            rank=draw(st.integers(0, 3)),
            exclusive=draw(tables),
            shared=draw(tables),
        )
        for at in range(count)
    ]


def _reaches(steps: list[BuildStep], first: str, then: str) -> bool:
    """Whether `then` can only run after `first`."""
    by_id = {step.id: step for step in steps}
    waiting, seen = [then], set[str]()
    while waiting:
        at = waiting.pop()
        if at == first:
            return True
        if at not in seen:
            seen.add(at)
            waiting.extend(by_id[at].depends_on)
    return False


@given(_drafts())
def test_every_order_that_dependencies_allow_is_a_good_one(drafts: list[Draft]) -> None:
    """What is needed is an ancestor, and so is every step that would lock the same table against this one."""
    steps = ordered(drafts, LockOrder())

    places = {step.id: at for at, step in enumerate(steps)}
    assert len(places) == len(drafts)
    for step in steps:
        assert all(places[other] < places[step.id] for other in step.depends_on)
    ids = _ids(drafts)
    for one in drafts:
        for needed in one.needs & ids.keys():
            assert _reaches(steps, ids[needed], ids[one.key])
        for other in drafts:
            collide = one.exclusive & (other.exclusive | other.shared)
            if one.key != other.key and collide:
                assert _reaches(steps, ids[one.key], ids[other.key]) or _reaches(steps, ids[other.key], ids[one.key])


def _ids(drafts: list[Draft]) -> dict[int, str]:
    """A step's id by its draft: where one is taken the next of its name is numbered."""
    seen: dict[str, int] = {}
    names: dict[int, str] = {}
    for draft in drafts:
        seen[draft.step.id] = seen.get(draft.step.id, 0) + 1
        names[draft.key] = draft.step.id + (f"#{seen[draft.step.id]}" if seen[draft.step.id] > 1 else "")
    return names


def test_indexes_of_one_table_are_built_side_by_side() -> None:
    table = frozenset({_TABLES[0]})
    none: frozenset[TableName] = frozenset()
    key = Draft(step=_step("key"), key=1, needs=frozenset(), rank=0, exclusive=table)
    indexes = [
        Draft(step=_step(f"index{at}"), key=at, needs=frozenset(), rank=1, exclusive=none, shared=table)
        for at in (2, 3)
    ]
    foreign = Draft(step=_step("fk"), key=4, needs=frozenset({1}), rank=2, exclusive=table)

    steps = ordered([foreign, *indexes, key], LockOrder())

    assert [(step.id, step.depends_on) for step in steps] == [
        ("key", ()),
        ("index2", ("key",)),
        ("index3", ("key",)),
        ("fk", ("key", "index2", "index3")),
    ]


def test_a_circle_keeps_the_order_of_the_archive() -> None:
    """pg_dump breaks circles before it writes; one that it did not break must not lose a step."""
    none: frozenset[TableName] = frozenset()
    drafts = [
        Draft(step=_step("a"), key=1, needs=frozenset({2}), rank=0, exclusive=none),
        Draft(step=_step("b"), key=2, needs=frozenset({1}), rank=0, exclusive=none),
    ]

    assert [step.id for step in ordered(drafts, LockOrder())] == ["a", "b"]


def test_a_step_survives_the_wire() -> None:
    step = BuildStep(
        id="index:s.i",
        kind="index",
        name="i",
        namespace="s.a",
        statements=(Statement(sql="CREATE …", object="INDEX s.i"), Statement(sql="x", object="y", is_optional=True)),
        depends_on=("a", "b"),
        sequences=(SequenceTarget(name=_TABLES[0], only_forward=True),),
    )

    wired = step.wire()

    assert BuildStep.from_wire(wired) == step
    assert wired.needs_source
    assert not _step("x").wire().needs_source
    assert "CREATE" not in repr(step)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x81\xa1v\x09", b"\x90"])
def test_a_payload_that_is_not_ours_is_a_named_error(payload: bytes) -> None:
    with pytest.raises(DefinitionError, match="finish step x"):
        BuildStep.from_wire(types.FinishStep(id="x", kind="index", name="x", payload=payload))
