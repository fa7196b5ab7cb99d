"""How source columns meet the sink's: what travels how, and what would be lost."""

from __future__ import annotations

import pytest
from dsync_postgres.schema import TableName
from dsync_postgres.sink.fit import BINARY, BSON, TEXT, Loss, fit, loss
from dsync_postgres.sink.targets import TargetColumn, TargetTable

from dsync.sdk import types

STOP = types.Severity.STOP


@pytest.mark.parametrize(
    ("source", "sink", "expected"),
    [
        ("integer", "integer", Loss.NONE),
        ("numeric(14,4)", "numeric(14,4)", Loss.NONE),
        ("shop.mood", "shop.mood", Loss.NONE),
        ("smallint", "bigint", Loss.FORM),
        ("integer", "numeric", Loss.FORM),
        ("integer", "numeric(3,0)", Loss.VALUE),
        ("bigint", "double precision", Loss.VALUE),
        ("bigint", "integer", Loss.VALUE),
        ("bigint", "timestamp without time zone", Loss.VALUE),
        ("double precision", "bigint", Loss.VALUE),
        ("numeric(14,4)", "numeric(14,2)", Loss.VALUE),
        ("numeric(14,4)", "numeric(15,5)", Loss.FORM),
        ("numeric(14,4)", "numeric(14,5)", Loss.VALUE),
        ("numeric(14,4)", "numeric", Loss.FORM),
        ("numeric", "numeric(14,4)", Loss.VALUE),
        ("character varying(10)", "character varying(20)", Loss.FORM),
        ("character varying(10)", "character varying(9)", Loss.VALUE),
        ("character varying", "character varying(9)", Loss.VALUE),
        ("character varying(10)", "text", Loss.FORM),
        ("text", "character varying", Loss.FORM),
        ("text", "character varying(10)", Loss.VALUE),
        ("character(5)", "character(9)", Loss.VALUE),
        ("shop.mood", "text", Loss.FORM),
        ("text", "shop.mood", Loss.VALUE),
        ("timestamp(3) without time zone", "timestamp without time zone", Loss.FORM),
        ("timestamp without time zone", "timestamp(3) without time zone", Loss.VALUE),
        ("timestamp(3) without time zone", "timestamp(6) without time zone", Loss.FORM),
        ("timestamp without time zone", "timestamp with time zone", Loss.VALUE),
        ("time(2) with time zone", "time(1) with time zone", Loss.VALUE),
        ("interval(3)", "interval", Loss.FORM),
        ("bit(3)", "bit", Loss.VALUE),
        ("bit(3)", "bit varying", Loss.FORM),
        ("integer[]", "bigint[]", Loss.FORM),
        ("integer[]", "bigint", Loss.VALUE),
        ("bigint", "bigint[]", Loss.VALUE),
        ("character varying(9)[]", "text[]", Loss.FORM),
        ("numeric(14,4)[]", "numeric(14,2)[]", Loss.VALUE),
        ('"odd ""type"""', "integer", Loss.VALUE),
        ("json", "jsonb", Loss.VALUE),
    ],
)
def test_what_a_value_goes_through(source: str, sink: str, expected: Loss) -> None:
    """A place for every value, in another form, is harmless; anything else needs consent."""
    assert loss(source, sink) is expected


def described(*columns: types.Column) -> types.NamespaceDescription:
    return types.NamespaceDescription(namespace="public.t", columns=columns)


def column(name: str, kind: str = "integer", *, generated: bool = False, binary: bool = True) -> types.Column:
    forms = (BINARY, TEXT, BSON) if binary else (TEXT,)
    return types.Column(name=name, type=kind, generated=generated, page_types=forms)


def table(*columns: TargetColumn) -> TargetTable:
    return TargetTable(
        name=TableName(schema="public", name="t"),
        oid=1,
        kind="r",
        unlogged=False,
        owned=True,
        can_insert=True,
        row_security_applies=False,
        has_insert_rules=False,
        is_referenced=False,
        has_blocks=False,
        columns=columns,
        keys=(),
        triggers=(),
    )


def there(
    name: str,
    kind: str = "integer",
    *,
    generated: bool = False,
    not_null: bool = False,
    has_default: bool = False,
    has_binary_input: bool = True,
) -> TargetColumn:
    return TargetColumn(
        name=name,
        type=kind,
        type_oid=0,
        not_null=not_null,
        generated=generated,
        identity_always=False,
        has_default=has_default,
        has_binary_input=has_binary_input,
    )


def test_equal_types_travel_in_binary_and_generated_columns_not_at_all() -> None:
    fitted = fit(described(column("a"), column("g", generated=True)), table(there("g", generated=True), there("a")))
    assert (fitted.columns, fitted.page_type, fitted.findings) == (("a",), BINARY, ())


@pytest.mark.parametrize(
    ("source", "sink", "reason"),
    [
        (column("a", "regclass", binary=False), there("a", "regclass"), "no binary form"),
        (column("a", "integer"), there("a", "bigint"), "integer at the source and bigint at the sink"),
        (column("a", "point"), there("a", "point", has_binary_input=False), "cannot be read in binary"),
    ],
)
def test_one_column_makes_a_table_travel_as_text(source: types.Column, sink: TargetColumn, reason: str) -> None:
    """The reason names the column."""
    fitted = fit(described(column("ok"), source), table(there("ok"), sink))
    assert fitted.page_type is TEXT
    assert reason in fitted.reason
    assert "column a" in fitted.reason


@pytest.mark.parametrize(
    ("source", "sink", "code"),
    [
        ([column("a"), column("b")], [there("a")], "column-missing"),
        ([column("a")], [there("a"), there("b", not_null=True)], "column-without-value"),
        ([column("a")], [there("a", generated=True)], "generated-at-one-end"),
        ([column("a", generated=True)], [there("a")], "generated-at-one-end"),
        ([column("a", "bigint")], [there("a", "integer")], "lossy-type"),
    ],
)
def test_what_would_lose_data_stops(source: list[types.Column], sink: list[TargetColumn], code: str) -> None:
    fitted = fit(described(*source), table(*sink))
    assert [finding.code for finding in fitted.findings if finding.severity is STOP] == [code]


def test_what_loses_nothing_does_not_stop() -> None:
    """A column of the sink's own that has a default or takes NULL, and a computed one that the sink lacks."""
    sink = table(there("a"), there("b", not_null=True, has_default=True), there("c"), there("d", generated=True))
    fitted = fit(described(column("a"), column("g", generated=True)), sink)
    assert [finding.severity for finding in fitted.findings] == [types.Severity.INFO, types.Severity.INFO]


def test_consent_turns_a_lossy_type_into_a_warning() -> None:
    fitted = fit(described(column("a", "bigint")), table(there("a", "integer")), allow_lossy=True)
    assert [(finding.code, finding.severity) for finding in fitted.findings] == [("lossy-type", types.Severity.WARNING)]
    assert fitted.page_type is TEXT


def test_documents_are_taken_where_nothing_else_is_offered() -> None:
    fitted = fit(described(column("a"), column("p", "point")), None, page_types=(BSON,))
    assert fitted.page_type is BSON
    assert fitted.findings == ()


@pytest.mark.parametrize(
    ("source", "sink", "is_refused"),
    [
        ("integer", "bigint", False),
        ("character varying(5)", "text", False),
        ("date", "timestamp without time zone", False),
        ("integer", "text", True),
        ("point", "character varying", True),
        ("shop.mood", "text", True),
    ],
)
def test_a_document_is_not_text_for_any_column(source: str, sink: str, is_refused: bool) -> None:
    """What COPY's text would carry over is refused before a row moves: a document says what kind its values are."""
    fitted = fit(described(column("a", source)), table(there("a", sink)), page_types=(BSON,))
    assert ("unlike-in-documents" in [finding.code for finding in fitted.findings]) == is_refused
