"""Other flows that fill the tables of this one: found before anything is made, and fenced where a table is taken over.

An empty table says nothing about who is about to fill it; a claim does, and it is there before the first row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from dsync_postgres.sink.ledger import LEDGERS, SCHEMA, Connection

# Rows given to a partitioned table lie in its partitions, so a claim to either is one to the other. A claim is settled
# once its run has a ledger row for it and all of them are done; one that a run took over from the run before has none,
# and is settled once that run has begun, which opens everything else first. After a crash an unlogged table has none
# either, and nobody can tell.
_RIVALS = """
WITH mine AS (
  SELECT w.oid, r.relation FROM unnest(%(oids)s::oid[]) AS w (oid) CROSS JOIN LATERAL (
    SELECT w.oid AS relation UNION SELECT a.relid FROM pg_partition_ancestors(w.oid) AS a (relid)
    UNION SELECT p.relid FROM pg_partition_tree(w.oid) AS p) r
  WHERE EXISTS (SELECT FROM _dsync.target WHERE flow <> %(flow)s)
), kept AS (
  SELECT flow, run, namespace, done FROM _dsync.ledger UNION ALL
  SELECT flow, run, namespace, done FROM _dsync.ledger_unlogged
), units AS (
  SELECT flow, run, namespace, bool_and(done) AS done FROM kept WHERE namespace <> '' GROUP BY 1, 2, 3
), begun AS (
  SELECT DISTINCT flow, run FROM kept WHERE done
)
SELECT m.oid::int8, t.flow, coalesce(nullif(f.name, ''), t.flow), t.namespace,
       NOT coalesce(u.done, b.flow IS NOT NULL AND c.relpersistence <> 'u', false)
FROM mine m JOIN _dsync.target t ON t.relation = m.relation AND t.flow <> %(flow)s
LEFT JOIN pg_class c ON c.oid = t.relation
LEFT JOIN _dsync.manifest f ON f.flow = t.flow
LEFT JOIN units u ON (u.flow, u.run, u.namespace) = (t.flow, t.run, coalesce(nullif(t.route, ''), t.namespace))
LEFT JOIN begun b ON (b.flow, b.run) = (t.flow, t.run)
ORDER BY 1, 2, 4
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another flow's claim to a table."""

    flow: str
    name: str
    """What commands call the flow."""
    namespace: str
    """What it claims: the table itself, one of its partitions, or the tree that it is part of."""
    is_filling: bool
    """Not all of it has arrived."""


def read_rivals(connection: Connection, flow: str, oids: Iterable[int]) -> Mapping[int, tuple[Rival, ...]]:
    """The claims of other flows to the tables with these oids, by oid.

    To be asked before the tables themselves are: what a flow finishes in between has left rows.
    """
    found: defaultdict[int, tuple[Rival, ...]] = defaultdict(tuple)
    asked = {"oids": list(oids), "flow": flow}
    for oid, other, name, namespace, is_filling in connection.execute(_RIVALS.encode(), asked):
        found[oid] += (Rival(flow=other, name=name, namespace=namespace, is_filling=is_filling),)
    return found


def take_over(connection: Connection, flow: str, run: str, namespaces: Sequence[str], rivals: Iterable[Rival]) -> None:
    """Make claims void and forget what was written: those tables were emptied or dropped, in this transaction.

    Their writers are fenced, since their units are gone, and open no new ones. It comes after the tables, which
    writers lock before the ledger too. Of this flow itself earlier runs are forgotten.
    """
    taken = {(rival.flow, rival.namespace) for rival in rivals}
    void = {"flows": [other for other, _ in taken], "namespaces": [namespace for _, namespace in taken]}
    if taken:
        connection.execute(
            "UPDATE _dsync.target SET relation = 0 WHERE (flow, namespace) IN"
            " (SELECT * FROM unnest(%(flows)s::text[], %(namespaces)s::text[]))",
            void,
        )
    for ledger in LEDGERS:
        table = sql.Identifier(SCHEMA, ledger)
        connection.execute(
            sql.SQL(
                "DELETE FROM {} WHERE flow = %(flow)s AND run <> %(run)s AND namespace = ANY(%(own)s)"
                " OR (flow, namespace) IN (SELECT * FROM unnest(%(flows)s::text[], %(namespaces)s::text[]))"
            ).format(table),
            void | {"flow": flow, "run": run, "own": list(namespaces)},
        )
