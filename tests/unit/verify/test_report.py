"""What a report says, and how."""

from __future__ import annotations

import json

from dsync.verify import ColumnDifference, Counts, Difference, Kind, Method, NamespaceReport, VerifyReport
from dsync.verify.render import render
from dsync.verify.report import first_of


def report_of(*namespaces: NamespaceReport, live: bool = True) -> VerifyReport:
    return VerifyReport(namespaces=namespaces, live=live, elapsed_s=1.23)


def table(**changes: object) -> NamespaceReport:
    found = {"source": "public.a", "target": "public.a", "method": Method.PUSHED_DOWN, "key": ("id",), **changes}
    return NamespaceReport(**found)  # type: ignore[arg-type] # by name, with the types that the field has


def test_equal_ends_exit_0_in_one_line() -> None:
    """Nothing is said of namespaces that agree but how many rows were compared, and how."""
    report = report_of(table(source_rows=1000, target_rows=1000), table(source_rows=234, target_rows=234), live=False)
    assert report.exit_code == 0
    assert render(report) == "2 namespaces agree: 1,234 rows, pushed down, under the copy's snapshot, 1.2 s"


def test_a_tree_counts_as_all_that_it_was_asked_for() -> None:
    """As many agree, or differ, as were copied."""
    report = report_of(table(stands_for=3), table(source="public.b"))
    assert render(report).startswith("4 namespaces agree")
    report = report_of(table(stands_for=3, counts=Counts(extra=1)), table(source="public.b"))
    assert "3 of 4 namespaces differ:" in render(report)


def test_differences_exit_4_and_are_listed_with_what_is_not_listed() -> None:
    """Counts are exact; the list says how much it leaves out."""
    report = report_of(
        table(
            source_rows=10,
            target_rows=9,
            target="other.a",
            counts=Counts(missing=3, different=2),
            differences=(
                Difference(kind=Kind.MISSING, key=("7",)),
                Difference(kind=Kind.DIFFERENT, key=("8",), columns=(ColumnDifference(column="note"),)),
            ),
        ),
        table(source="public.b", source_rows=1, target_rows=1),
    )
    assert report.exit_code == 4
    assert render(report).splitlines() == [
        "public.a → other.a: 3 missing, 2 different",
        "  missing: id=7",
        "  different: id=8 in note",
        "  … and 3 rows more",
        "1 of 2 namespaces differs: 11 rows at the source, 10 at the target, pushed down, live, 1.2 s",
    ]


def test_a_count_without_a_listed_row_is_a_difference() -> None:
    """Also where nobody wanted to see any."""
    assert report_of(table(counts=Counts(extra=1))).exit_code == 4
    assert render(report_of(table(counts=Counts(extra=1)))).splitlines()[1] == "  … and 1 row more"


def test_what_changed_since_the_copy_is_told_apart() -> None:
    """It is said, and is no fault."""
    changed = Difference(kind=Kind.DIFFERENT, key=("1",), changed_since=True)
    report = report_of(table(counts=Counts(changed_since=1), differences=(changed,)))
    assert report.exit_code == 0
    assert "different (may have changed since the copy): id=1" in render(report)
    assert "1 namespace agrees; 1 row may have changed since the copy" in render(report)


def test_every_kind_that_is_not_of_rows_is_a_difference() -> None:
    """Types, counts and lost namespaces do not depend on any row."""
    for kind in (Kind.TYPE, Kind.COUNT, Kind.NAMESPACE):
        report = report_of(table(differences=(Difference(kind=kind, rows=0, detail="this and that"),)))
        assert report.exit_code == 4
        assert f"  {kind}: this and that" in render(report)


def test_values_cannot_mislead_a_reader_or_a_terminal() -> None:
    """Control characters, blanks and a text that spells NULL come quoted."""
    nasty = ColumnDifference(column="note", source="\x1b[2J\u202e", target=None)
    report = report_of(
        table(
            counts=Counts(different=1, missing=2),
            differences=(
                Difference(kind=Kind.DIFFERENT, key=("a b",), columns=(nasty,)),
                Difference(kind=Kind.MISSING, key=("NULL",)),
                Difference(kind=Kind.MISSING, key=("",)),
            ),
        )
    )
    text = render(report)
    assert 'different: id="a b" in note "\\u001b[2J\\u202e" → NULL' in text
    assert 'missing: id="NULL"' in text
    assert 'missing: id=""' in text


def test_rows_without_a_key_are_named_by_their_hash() -> None:
    """With how many of them there are."""
    difference = Difference(kind=Kind.EXTRA, key=("ab12",), rows=3)
    text = render(report_of(table(key=(), counts=Counts(extra=3), differences=(difference,))))
    assert "extra: 3 rows with hash ab12" in text
    assert "more" not in text


def test_json_carries_everything() -> None:
    """The same facts as the text, for programs."""
    columns = (ColumnDifference(column="n", source="1", target=None),)
    report = report_of(
        table(
            counts=Counts(different=2),
            source_rows=5,
            target_rows=5,
            differences=(Difference(kind=Kind.DIFFERENT, key=("1",), columns=columns),),
            notes=("a note",),
        )
    )
    found = json.loads(json.dumps(report.as_json()))
    (namespace,) = found.pop("namespaces")
    assert found == {
        "equal": False,
        "source_rows": 5,
        "target_rows": 5,
        "counts": {"missing": 0, "extra": 0, "different": 2, "changed_since": 0},
        "methods": ["pushed down"],
        "view": "live",
        "elapsed_s": 1.23,
    }
    assert namespace["differences"] == [
        {
            "kind": "different",
            "key": ["1"],
            "rows": 1,
            "columns": [{"column": "n", "source": "1", "target": None}],
            "detail": "",
            "changed_since": False,
        }
    ]
    assert (namespace["unlisted"], namespace["notes"], namespace["method"]) == (1, ["a note"], "pushed down")


def test_the_first_rows_are_the_same_in_every_report() -> None:
    """By class and key, numbers by value, whatever order they were found in; excused rows last."""
    keys = ["10", "9", "x", "-3", "NaN"]
    rows = [Difference(kind=Kind.EXTRA, key=(key,)) for key in keys]
    rows += [Difference(kind=Kind.MISSING, key=("5",), changed_since=True), Difference(kind=Kind.MISSING, key=("6",))]
    assert [d.key[0] for d in first_of(rows, 5)] == ["6", "-3", "9", "10", "NaN"]
    assert first_of(list(reversed(rows)), 7) == first_of(rows, 7)
    assert [d.key[0] for d in first_of(rows, 7)][-1] == "5"
    assert first_of(rows, 0) == ()


def test_nothing_to_compare_is_said() -> None:
    """An empty verification is not one that found its namespaces equal."""
    assert render(report_of()).startswith("nothing to compare: 0 rows, not compared")
