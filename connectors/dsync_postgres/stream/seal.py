"""The seal on a publication of ours: what it was when dsync last touched it, kept as its comment.

A table that is taken out of a publication and put back leaves nothing to see in it, and what was changed meanwhile is
in no stream. But the row that publishes the table is another one then, as is that of the publication where an option
was changed for a moment. The comment is written in the transaction that alters the publication, outlives every
process, and is gone with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql

from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection

_WORDS = "dsync follows tables by this publication; altering it ends that. "

_ROWS = b"""
SELECT n.nspname::text, c.relname::text, r.prrelid::int8, r.oid::int8
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = %s
"""
# The id of the transaction that has made the row: tables come and go without touching it, options do not.
_PUBLICATION = b"""
SELECT p.oid::int8, p.xmin::text::int8, coalesce(obj_description(p.oid, 'pg_publication'), '')
FROM pg_publication p WHERE p.pubname = %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a publication is made of, by numbers that are never given twice."""

    publication: tuple[int, int]
    """Its own row: its oid, and the transaction that has last written it."""
    tables: Mapping[int, int]
    """By the oid of a table, that of the row which publishes it."""

    def as_comment(self) -> str:
        """What `of_comment` reads, behind some words for whoever looks."""
        tables = {str(oid): row for oid, row in sorted(self.tables.items())}
        return _WORDS + json.dumps({"publication": list(self.publication), "tables": tables})

    @classmethod
    def of_comment(cls, comment: str) -> Seal | None:
        """None where it is somebody else's comment, or none."""
        if not comment.startswith(_WORDS):
            return None
        try:
            kept = json.loads(comment.removeprefix(_WORDS))
            return cls(
                publication=(int(kept["publication"][0]), int(kept["publication"][1])),
                tables={int(oid): int(row) for oid, row in kept["tables"].items()},
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A publication's seal, and what it would be now."""

    kept: Seal | None
    now: Seal
    names: Mapping[TableName, int]
    """The oids of its tables."""

    @property
    def has_other_options(self) -> bool:
        """It was made anew, or an option of it was changed, be it for a moment."""
        return self.kept is not None and self.kept.publication != self.now.publication

    @property
    def altered(self) -> frozenset[TableName]:
        """Tables that it publishes, and that it did not publish all the time."""
        if self.kept is None:
            return frozenset()
        return frozenset(
            name for name, oid in self.names.items() if self.kept.tables.get(oid) != self.now.tables.get(oid)
        )


def read_seal(connection: Connection, name: str) -> Sealed | None:
    """Of the publication of that name; None where there is none."""
    row = connection.execute(_PUBLICATION, [name]).fetchone()
    if row is None:
        return None
    oid, written, comment = row
    rows = connection.execute(_ROWS, [name]).fetchall()
    return Sealed(
        kept=Seal.of_comment(comment),
        now=Seal(publication=(oid, written), tables={table: row for _, _, table, row in rows}),
        names={TableName(schema=schema, name=table): number for schema, table, number, _ in rows},
    )


def seal(connection: Connection, name: str, fresh: Iterable[TableName] | None = None) -> None:
    """Take a publication for what it is now; with `fresh`, as far as these tables are concerned and no further.

    In the transaction that alters it: what others do to it before or after is told by the seal then.
    """
    found = read_seal(connection, name)
    assert found is not None, "it was made or altered a moment ago"
    made = found.now
    if fresh is not None and found.kept is not None:
        oids = {found.names[table] for table in fresh if table in found.names}
        tables = {oid: row for oid, row in made.tables.items() if oid in oids}
        made = Seal(publication=found.kept.publication, tables={**found.kept.tables, **tables})
    connection.execute(
        sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(sql.Identifier(name), sql.Literal(made.as_comment()))
    )
