"""Comparing ends that have nothing in common but their documents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bson import Int64, ObjectId

from dsync.protocol.errors import PluginBugError, UnsupportedError
from dsync.protocol.types import Page, PageType, Plan, PlanRequest, ReadRequest
from dsync.verify import Kind, Method, VerifyOptions, VerifyReport, verify
from dsync.verify.render import render
from tests.unit.verify.fakes import ChecksumEnd, DocumentEnd, Table

STILL = VerifyOptions(generations=0, show_values=True)
SPACE = {"s.t": "s.t"}

Documents = list[dict[str, Any]]


def documents(count: int = 200) -> Documents:
    return [{"_id": n, "note": f"note {n}", "n": float(n)} for n in range(count)]


async def compare(
    here: Documents, there: Documents, options: VerifyOptions = STILL, **more: Any
) -> tuple[VerifyReport, DocumentEnd, DocumentEnd]:
    source, target = DocumentEnd({"s.t": here}), DocumentEnd({"s.t": there}, name="two", **more)
    return await verify(source, target, SPACE, options), source, target


async def test_equal_ends_are_read_once() -> None:
    """Pages in whatever order; sums need no second look."""
    report, source, target = await compare(documents(), documents()[::-1])
    assert report.exit_code == 0
    assert (report.source_rows, report.target_rows, report.methods) == (200, 200, (Method.STREAMED,))
    assert source.reads == target.reads == 20


@pytest.mark.parametrize("get_by_ids", [True, False])
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("db_type", ["docs", "other"])
async def test_every_class_of_difference_is_found(get_by_ids: bool, live: bool, db_type: str) -> None:
    """Between the same engine and unlike ones, and whether documents can be asked for by id or not."""
    there = documents()
    there[3]["note"] = "wrong"
    there[4]["more"] = None
    del there[5]["note"]
    del there[7]
    there.append({"_id": "x"})
    options = VerifyOptions(show_values=True, settle_delay_s=0, generations=2 if live else 0)
    report, _, _ = await compare(documents(), there, options, get_by_ids=get_by_ids, db_type=db_type)
    (namespace,) = report.namespaces
    found = {d.key: (d.kind, [(c.column, c.source, c.target) for c in d.columns]) for d in namespace.differences}
    assert found == {
        ("7",): (Kind.MISSING, []),
        ("x",): (Kind.EXTRA, []),
        ("3",): (Kind.DIFFERENT, [("note", '"note 3"', '"wrong"')]),
        ("4",): (Kind.DIFFERENT, [("more", None, "null")]),
        ("5",): (Kind.DIFFERENT, [("note", '"note 5"', None)]),
    }
    assert namespace.key == ("_id",)
    assert report.exit_code == 4


async def test_engines_may_write_one_content_in_several_ways() -> None:
    """The order of fields and the width of numbers are the engine's business; a sign, a scale or a type is content."""
    here = [{"_id": n, "a": 1, "b": [1, 2.0, {"c": 3}]} for n in range(50)]
    there = [{"_id": Int64(n), "b": [Int64(1), 2, {"c": 3.0}], "a": 1.0} for n in range(50)]
    for db_type in ("docs", "other"):
        report, _, _ = await compare(here, there, db_type=db_type)
        assert report.exit_code == 0, render(report)
    there[1]["a"], there[2]["a"], there[3]["a"] = -1, "1", True
    report, _, _ = await compare(here, there)
    assert [d.key for d in report.namespaces[0].differences] == [("1",), ("2",), ("3",)]


async def test_documents_of_a_table_without_key_compare_without_their_id() -> None:
    """There `_id` says where a row lies, which is another place at each end."""

    class Described(DocumentEnd):
        async def get_extensions(self):  # type: ignore[no-untyped-def] # as its base
            return await ChecksumEnd({}).get_extensions()

        async def describe(self, request):  # type: ignore[no-untyped-def] # as its base
            return await ChecksumEnd({"s.t": Table(columns=("a",), key=())}).describe(request)

    here = [{"_id": ObjectId(), "a": n % 3} for n in range(30)]
    there = [{"_id": ObjectId(), "a": n % 3} for n in range(30)]
    ends = Described({"s.t": here}), DocumentEnd({"s.t": there}, name="two")
    assert (await verify(*ends, SPACE, STILL)).exit_code == 0
    there.append({"_id": ObjectId(), "a": 1})
    there.append({"_id": ObjectId(), "a": 1})
    report = await verify(ends[0], DocumentEnd({"s.t": there}, name="two"), SPACE, STILL)
    assert [(d.kind, d.rows) for d in report.namespaces[0].differences] == [(Kind.EXTRA, 2)]
    assert report.namespaces[0].counts.extra == 2


async def test_memory_does_not_grow_with_what_differs() -> None:
    """All documents differ and next to nothing may wait in memory: the counts are exact all the same."""
    there = [{**document, "note": "wrong"} for document in documents(2000)]
    options = VerifyOptions(generations=0, max_diffs=3, held_bytes=1000)
    report, _, _ = await compare(documents(2000), there[::-1], options)
    (namespace,) = report.namespaces
    assert namespace.counts.different == 2000
    assert (len(namespace.differences), namespace.unlisted) == (3, 1997)


async def test_an_end_that_cannot_be_read_back_is_refused() -> None:
    """With a way on: it may still be counted."""
    source, target = DocumentEnd({"s.t": []}), DocumentEnd({"s.t": []}, name="two", readable=False)
    with pytest.raises(UnsupportedError, match=r"target \(docs\) cannot be read back.*--quick"):
        await verify(source, target, SPACE, STILL)
    report = await verify(source, target, SPACE, VerifyOptions(quick=True))
    assert report.exit_code == 0
    assert report.namespaces[0].notes == (
        "the source may only estimate how many rows it has",
        "the target may only estimate how many rows it has",
    )


async def test_a_namespace_that_is_not_there_is_a_difference() -> None:
    """Found by counting, where an end describes nothing."""
    report = await verify(DocumentEnd({"s.t": []}), DocumentEnd({}, name="two"), SPACE, STILL)
    assert [d.detail for d in report.namespaces[0].differences] == ["the target has no s.t"]
    assert report.exit_code == 4


async def test_a_source_that_never_ends_is_found_out() -> None:
    """The same cursor again means the same page again, for ever."""

    class Endless(DocumentEnd):
        async def list_data(self, request: ReadRequest) -> Page:
            return Page(type=PageType.BSON, rows=0, records=[], next_cursor=b"again")

    with pytest.raises(PluginBugError, match="same cursor"):
        await verify(Endless({"s.t": []}), DocumentEnd({"s.t": []}), SPACE, STILL)


async def test_the_copys_snapshot_is_not_what_pages_are_read_from() -> None:
    """So the report does not claim it, and says what follows."""
    report, _, _ = await compare(documents(), documents(), VerifyOptions(live=False, settle_delay_s=0))
    assert report.live
    assert report.namespaces[0].notes == (
        "compared as it is now: what was written since the copy counts as a difference",
    )


async def test_one_namespace_is_read_at_a_time() -> None:
    """A source may hold one plan at a time: planning the next one would take the first one's snapshot away."""

    class OnePlan(DocumentEnd):
        planned = ""

        async def generate_plan(self, request: PlanRequest) -> Plan:
            (self.planned,) = request.namespaces
            return await super().generate_plan(request)

        async def list_data(self, request: ReadRequest) -> Page:
            assert request.partition.namespace == self.planned
            await asyncio.sleep(0)
            return await super().list_data(request)

    spaces = {f"s.t{n}": documents(60) for n in range(4)}
    source, target = OnePlan(spaces), OnePlan(spaces, name="two")
    report = await verify(source, target, {name: name for name in spaces}, VerifyOptions(parallel=4))
    assert report.exit_code == 0
