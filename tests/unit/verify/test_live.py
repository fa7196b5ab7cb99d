"""Comparing ends that are written to: what settles, what persists, and what a write explains."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable

import pytest

from dsync.verify import Kind, RowsSettling, VerifyOptions, VerifyReport
from dsync.verify.namespace import at_once
from dsync.verify.progress import NoProgress
from dsync.verify.verifier import Verifier
from tests.unit.verify.fakes import ChecksumEnd, Table

SPACE = {"s.t": "s.t"}


class Pair:
    """Two ends, and a clock on which things happen to them."""

    def __init__(self, table: Table) -> None:
        self.source = ChecksumEnd({"s.t": table})
        self.target = ChecksumEnd({"s.t": copy.deepcopy(table)}, name="two")
        self.slept: list[float] = []
        self.events: list[object] = []
        self.at: dict[int, Callable[[], None]] = {}
        """What happens during the first, second … time that rows are waited for."""

    @property
    def here(self) -> list[dict[str, str | None]]:
        return self.source.tables["s.t"].rows

    @property
    def there(self) -> list[dict[str, str | None]]:
        return self.target.tables["s.t"].rows

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at.get(len(self.slept), lambda: None)()

    async def verify(
        self,
        options: VerifyOptions,
        ready: Callable[[], Awaitable[None]] | None = None,
        catch_up: Callable[[], Awaitable[None]] | None = None,
    ) -> VerifyReport:
        verifier = Verifier(
            self.source,
            self.target,
            options,
            progress=NoProgress(),
            emit=self.events.append,
            ready=ready or at_once,
            catch_up=catch_up,
            sleep=self.sleep,
        )
        return await verifier.run(SPACE)


@pytest.fixture
def pair() -> Pair:
    return Pair(Table.of(1000))


async def test_a_row_in_flight_is_no_difference(pair: Pair) -> None:
    """It is read again until it agrees, or to the end of the generations."""
    pair.here[5]["note"] = "new"
    pair.here[6]["note"] = "new"

    def arrive(row: int) -> Callable[[], None]:
        return lambda: pair.there[row].update(note="new")

    pair.at = {1: arrive(5), 2: arrive(6)}
    report = await pair.verify(VerifyOptions(generations=4, settle_delay_s=2.5))
    assert report.exit_code == 0
    assert pair.slept == [2.5, 2.5]
    assert [(e.rows, e.generation) for e in pair.events if isinstance(e, RowsSettling)] == [(2, 1), (1, 2)]


async def test_what_differs_is_read_again_once_the_lag_has_passed(pair: Pair) -> None:
    """However long that takes: no clock is asked. What is left then is a difference, and only that."""
    pair.here[5]["note"] = "new"
    pair.here[6]["note"] = "new"
    waits = 0

    async def catch_up() -> None:
        nonlocal waits
        waits += 1
        pair.there[5].update(note="new")

    report = await pair.verify(VerifyOptions(generations=3), catch_up=catch_up)
    assert report.exit_code == 4
    (difference,) = report.namespaces[0].differences
    assert difference.key == ("000006",)
    assert (waits, pair.slept) == (3, [])


async def test_what_rests_is_not_waited_for(pair: Pair) -> None:
    """Before a range is read, and before rows are: while nothing is applied nothing can settle."""
    pair.here[5]["note"] = "new"
    asked = []

    async def ready() -> None:
        asked.append(len(pair.slept))
        if asked == [0, 0]:
            pair.there[5].update(note="new")

    report = await pair.verify(VerifyOptions(generations=1), ready)
    assert report.exit_code == 0
    assert asked == [0, 0], "one range, and once before its row is read again"


async def test_a_row_that_persists_is_one(pair: Pair) -> None:
    """After the last generation, and with the class it has by then."""
    pair.there[5]["note"] = "wrong"
    pair.there[6]["note"] = "wrong"
    pair.at = {2: lambda: pair.there.remove(pair.there[6])}
    report = await pair.verify(VerifyOptions(generations=3))
    (namespace,) = report.namespaces
    assert {d.key: d.kind for d in namespace.differences} == {
        ("000005",): Kind.DIFFERENT,
        ("000006",): Kind.MISSING,
    }
    assert (namespace.counts.different, namespace.counts.missing) == (1, 1)
    assert report.exit_code == 4


async def test_a_row_that_never_rests_is_said_and_is_no_proof(pair: Pair) -> None:
    """The source wrote it between the last two readings, so the target may well follow."""
    pair.here[5]["note"] = "new"
    pair.at = {n: lambda n=n: pair.here[5].update(note=f"newer {n}") for n in (1, 2, 3)}  # type: ignore[misc]
    report = await pair.verify(VerifyOptions(generations=3))
    (namespace,) = report.namespaces
    (difference,) = namespace.differences
    assert (difference.changed_since, difference.detail) == (True, "the source is writing it")
    assert (namespace.counts.faults, namespace.counts.changed_since) == (0, 1)
    assert report.exit_code == 0


async def test_too_many_rows_settle_by_whole_ranges(pair: Pair) -> None:
    """Reading each again by key would cost more than comparing the range once more."""
    for row in pair.here[:300]:
        row["note"] = "new"

    def arrive() -> None:
        for row in pair.there[:300]:
            row["note"] = "new"
        pair.there[500]["note"] = "wrong"

    pair.at = {1: arrive}
    pair.there[400]["note"] = "wrong"
    options = VerifyOptions(generations=3, settled_rows=50, max_diffs=50, rows_per_range=450)
    report = await pair.verify(options)
    (namespace,) = report.namespaces
    assert {d.key for d in namespace.differences} == {("000400",)}
    assert namespace.counts.different == 1
    assert namespace.source_rows == 1000
    # The range that differed first, and no other, is compared a second time; its row is then read by key.
    assert len({request.range for request in pair.source.calls_of("get_checksum")}) == 3
    assert len(pair.slept) == 3


async def test_rows_without_a_key_settle_by_content(pair: Pair) -> None:
    """What differs the same way each time persists; what has come up since may be on its way."""
    for end in (pair.source, pair.target):
        end.tables["s.t"].key = ()
    pair.here.append({"id": "x", "note": "on its way"})
    pair.there.append({"id": "y", "note": "never was there"})

    def arrive() -> None:
        pair.there.append({"id": "x", "note": "on its way"})
        pair.here.append({"id": "z", "note": "on its way now"})

    pair.at = {1: arrive}
    report = await pair.verify(VerifyOptions(generations=1))
    (namespace,) = report.namespaces
    assert (namespace.counts.missing, namespace.counts.extra) == (0, 1)
    assert [d.kind for d in namespace.differences] == [Kind.EXTRA]


async def test_without_generations_the_first_look_counts(pair: Pair) -> None:
    """For whoever knows that both ends are at rest."""
    pair.there[5]["note"] = "wrong"
    report = await pair.verify(VerifyOptions(generations=0))
    assert report.namespaces[0].counts.different == 1
    assert pair.slept == []


async def test_without_its_snapshot_a_copy_is_not_judged_by_rows_that_may_have_changed(pair: Pair) -> None:
    """Where the source cannot tell which have, any may have: all are reported, none is a fault."""
    pair.there[5]["note"] = "wrong"
    del pair.there[6]
    report = await pair.verify(VerifyOptions(snapshot_lost=True, generations=1, max_diffs=1))
    (namespace,) = report.namespaces
    assert (namespace.counts.faults, namespace.counts.changed_since) == (0, 2)
    assert namespace.unlisted == 1
    assert report.exit_code == 0


async def test_a_source_that_can_tell_excuses_only_what_was_written(pair: Pair) -> None:
    """A row it has not written since was copied wrongly; one that it does not have may have been deleted."""
    for row in (1, 2, 3):
        pair.there[row]["note"] = "wrong"
    del pair.there[10]
    pair.there.append({"id": "x", "note": "extra"})
    asked: list[bytes] = []
    whole = pair.source.get_rows

    async def written(request):  # type: ignore[no-untyped-def] # as its base
        if not request.changed_since:
            return await whole(request)
        asked.append(request.changed_since)
        return [key for key in request.keys if key == ("000002",)]

    pair.source.get_rows = written  # type: ignore[method-assign] # a source that knows the age of rows
    options = VerifyOptions(snapshot_lost=True, lost_snapshot=b"then", generations=1)
    report = await pair.verify(options)
    (namespace,) = report.namespaces
    assert {d.key[0]: d.changed_since for d in namespace.differences} == {
        "000001": False,
        "000002": True,
        "000003": False,
        "000010": False,
        "x": True,
    }
    counts = namespace.counts
    assert (counts.missing, counts.extra, counts.different, counts.changed_since) == (1, 0, 2, 2)
    assert set(asked) == {b"then"}
    assert report.exit_code == 4

    # A table that has changed under an earlier snapshot, lost before this one, cannot be judged by it.
    options = VerifyOptions(snapshot_lost=True, lost_snapshot=b"then", generations=1, changed=frozenset({"s.t"}))
    assert (await pair.verify(options)).exit_code == 0


async def test_under_a_held_snapshot_only_what_an_earlier_one_missed_is_excused(pair: Pair) -> None:
    """The copy's own snapshot proves each difference, but in tables that changed under one that was lost before."""
    pair.there[5]["note"] = "wrong"
    options = VerifyOptions(live=False, snapshot_lost=True)
    assert (await pair.verify(options)).namespaces[0].counts.different == 1
    options = VerifyOptions(live=False, changed=frozenset({"s.t"}))
    report = await pair.verify(options)
    assert (report.exit_code, report.counts.changed_since) == (0, 1)
    assert pair.slept == []
