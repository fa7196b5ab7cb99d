"""Partitions that are filled through a table above them, because a row belongs elsewhere at the sink.

Hash partitioning goes by the key's bytes: those of an enum are its oid, those of a text are in the database's
encoding, so a row of the source's first partition may be one of the sink's second. Rows go to the topmost table that
places them like that: all partitions below it are filled through it, and none beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.ledger import Connection

# An expression (attnum 0) may make anything of anything. The sort keys of a collation that calls different texts equal
# come from a library whose version differs.
_ROUTES = """
WITH RECURSIVE base (domain, oid) AS (
    SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd'
  UNION ALL
    SELECT base.domain, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.oid WHERE t.typtype = 'd'
)
SELECT DISTINCT ON (w.schema, w.name) w.schema, w.name, rn.nspname::text, r.relname::text
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relispartition
CROSS JOIN LATERAL pg_partition_ancestors(c.oid) WITH ORDINALITY AS up (oid, height)
JOIN pg_class r ON r.oid = up.oid JOIN pg_namespace rn ON rn.oid = r.relnamespace
JOIN pg_partitioned_table p ON p.partrelid = up.oid AND p.partstrat = 'h'
CROSS JOIN LATERAL unnest(p.partattrs::int2[], p.partcollation::oid[]) AS k (number, collation_oid)
LEFT JOIN pg_attribute a ON a.attrelid = up.oid AND a.attnum = k.number AND k.number > 0
LEFT JOIN pg_type t ON t.oid = coalesce(
    (SELECT b.oid FROM base b JOIN pg_type d ON d.oid = b.oid WHERE b.domain = a.atttypid AND d.typtype <> 'd'),
    a.atttypid)
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typlen = -1
LEFT JOIN pg_collation l ON l.oid = k.collation_oid
WHERE a.attnum IS NULL OR t.typtype <> 'b' OR coalesce(e.typtype, 'b') <> 'b' OR coalesce(e.typname, t.typname) ~ '^reg'
  OR NOT coalesce(l.collisdeterministic, true)
  OR (%(unlike_encodings)s AND 'S' IN (t.typcategory, e.typcategory))
ORDER BY w.schema, w.name, up.height DESC
"""


def read_routes(
    connection: Connection, names: Iterable[TableName], *, unlike_encodings: bool
) -> dict[TableName, TableName]:
    """Of these tables those whose rows have to be given to a table above them, with that."""
    wanted = list(names)
    rows = connection.execute(
        _ROUTES.encode(),
        {
            "schemas": [name.schema for name in wanted],
            "names": [name.name for name in wanted],
            "unlike_encodings": unlike_encodings,
        },
    ).fetchall()
    return {
        TableName(schema=schema, name=name): TableName(schema=root_schema, name=root)
        for schema, name, root_schema, root in rows
    }
