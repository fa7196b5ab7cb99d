"""Does a table that exists at the sink take the rows of the source's table?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsync.sdk import namespaces
from dsync_postgres.schema.catalog import ColumnFacts
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.schema.names import TableName


def compare_columns(
    table: TableName, source: Sequence[ColumnFacts], sink: Sequence[ColumnFacts]
) -> tuple[Finding, ...]:
    """Return where two tables differ, by column name; `table` is the sink's.

    Order does not matter, since columns are always named. Types are compared with their modifiers: binary COPY
    converts nothing, and puts a float8 into a bigint without a word.
    """
    theirs = {column.name: column for column in sink}
    ours = {column.name: column for column in source}
    findings: list[Finding] = []
    for name, column in ours.items():
        if name in theirs:
            findings += _compare(table, column, theirs[name])
        else:
            findings.append(_missing(table, column))
    for name, column in theirs.items():
        if name not in ours:
            findings += _surplus(table, column)
    return tuple(findings)


def _missing(table: TableName, column: ColumnFacts) -> Finding:
    if column.generated:
        return warn("column-missing", _name(table, column), "this generated column is not in the table at the sink")
    return stop(
        "column-missing",
        _name(table, column),
        "the table at the sink does not have this column",
        f"add it there with type {column.type}, or use --on-existing drop",
    )


def _surplus(table: TableName, column: ColumnFacts) -> Iterator[Finding]:
    if column.not_null and not (column.has_default or column.generated or column.identity):
        yield stop(
            "column-surplus",
            _name(table, column),
            "only the sink has this column, and it is NOT NULL without a default, so no row fits",
            "give it a default or drop it",
        )
    else:
        yield info("column-surplus", _name(table, column), "only the sink has this column; rows get its default")


def _compare(table: TableName, source: ColumnFacts, sink: ColumnFacts) -> Iterator[Finding]:
    name = _name(table, source)
    if source.type != sink.type:
        yield stop(
            "column-type",
            name,
            f"its type is {source.type} at the source and {sink.type} at the sink",
            f"change it to {source.type} at the sink, or use --on-existing drop",
        )
    if bool(source.generated) != bool(sink.generated):
        where = ("source", "sink") if source.generated else ("sink", "source")
        yield stop(
            "column-generated",
            name,
            f"it is generated at the {where[0]} and an ordinary column at the {where[1]}, so its values would be lost",
            "make it alike at both ends, or use --on-existing drop",
        )
    elif source.generated != sink.generated:
        yield info("column-generated", name, "it is stored at one end and virtual at the other")
    if sink.not_null and not source.not_null:
        yield warn(
            "column-not-null",
            name,
            "it is NOT NULL at the sink and may be null at the source; a null will be refused",
            "drop NOT NULL at the sink if the source has nulls",
        )
    elif source.not_null and not sink.not_null:
        yield info("column-not-null", name, "it is NOT NULL at the source and may be null at the sink")
    if bool(source.identity) != bool(sink.identity):
        yield info("column-identity", name, "it is an identity column at one end only")
    if source.collation != sink.collation:
        yield info(
            "column-collation",
            name,
            f"its collation is {source.collation or 'the default'} at the source and "
            f"{sink.collation or 'the default'} at the sink",
        )


def _name(table: TableName, column: ColumnFacts) -> str:
    return namespaces.join((table.schema, table.name, column.name))
