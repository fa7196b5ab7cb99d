"""What the sink keeps about whole flows: manifests, and the end of all traces of one."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from dsync.sdk import types
from dsync_postgres.sink import large_objects, ledger
from dsync_postgres.sink.ledger import SCHEMA, Connection
from dsync_postgres.sink.remembered import forget_shapes

_SAVE = """
INSERT INTO _dsync.manifest AS m (flow, fingerprint, name, run, plan)
VALUES (%(flow)s, %(fingerprint)s, %(name)s, %(run)s, %(plan)s)
ON CONFLICT (flow) DO UPDATE SET (fingerprint, name, run, plan, updated_at)
  = (excluded.fingerprint, excluded.name, excluded.run, excluded.plan, now())
WHERE (m.fingerprint, m.name, m.run, m.plan)
  IS DISTINCT FROM (excluded.fingerprint, excluded.name, excluded.run, excluded.plan)
"""
_FIND = """
SELECT flow, fingerprint, name, run, plan FROM _dsync.manifest
WHERE (%(flow)s = '' OR flow = %(flow)s) AND (%(fingerprint)s = '' OR fingerprint = %(fingerprint)s)
ORDER BY updated_at DESC, flow
"""
# What a flow leaves behind, and what to call it; `aside` is emptied by what it stands for.
_TRACES = (
    ("ledger", "ledger row"),
    ("ledger_unlogged", "unlogged ledger row"),
    ("manifest", "manifest"),
    ("target", "table note"),
    ("prepared", "run note"),
)


def save_manifest(connection: Connection, manifest: types.FlowManifest) -> None:
    """Remember a flow; the last manifest of a flow stays. Repeatable."""
    connection.execute(
        _SAVE,
        {
            "flow": manifest.flow,
            "fingerprint": manifest.fingerprint,
            "name": manifest.name,
            "run": manifest.run,
            "plan": manifest.plan,
        },
    )


def find_manifests(connection: Connection, *, flow: str, fingerprint: str) -> list[types.FlowManifest]:
    """The manifests that match every non-empty argument, the latest first; none where there is no ledger."""
    state = ledger.examine(connection)
    if not state.complete:
        return []
    ledger.check_format(connection)
    rows = connection.execute(_FIND, {"flow": flow, "fingerprint": fingerprint}).fetchall()
    return [
        types.FlowManifest(flow=flow, fingerprint=fingerprint, name=name, run=run, plan=bytes(plan))
        for flow, fingerprint, name, run, plan in rows
    ]


def forget(connection: Connection, flow: str) -> list[str]:
    """Remove a flow's rows from every table of the ledger, and the schema with the last flow; never a copied row.

    Repeatable. For a transaction that the caller begins and ends.
    """
    removed: list[str] = []
    for table, noun in _TRACES:
        count = connection.execute(
            sql.SQL("DELETE FROM {} WHERE flow = %s").format(sql.Identifier(SCHEMA, table)), [flow]
        ).rowcount
        if count:
            removed.append(f"{count} {noun}{'' if count == 1 else 's'} of flow {flow} at the sink")
    if count := large_objects.forget(connection, flow):
        removed.append(f"{count} large object note{'' if count == 1 else 's'} of flow {flow} at the sink")
    forget_shapes(connection, flow)
    removed += _drop_unused(connection)
    return removed


def _drop_unused(connection: Connection) -> Sequence[str]:
    """Drop the schema once no flow has anything in it, where it is this role's to drop."""
    tables = [name for name, _ in _TRACES] + ["aside"]
    used = sql.SQL(" OR ").join(
        sql.SQL("EXISTS (SELECT FROM {})").format(sql.Identifier(SCHEMA, table)) for table in tables
    )
    row = connection.execute(
        sql.SQL("SELECT {}, (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = {})").format(
            used, sql.Literal(SCHEMA)
        )
    ).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    is_used, is_owner = row
    if is_used or large_objects.are_noted(connection):
        return []
    if not is_owner:
        return [f"nothing else: the empty schema {SCHEMA} of the sink belongs to another role and stays"]
    connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(SCHEMA)))
    return [f"schema {SCHEMA} of the sink, which no other flow uses"]
