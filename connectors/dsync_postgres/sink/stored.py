"""What `prepare` has answered, kept at the sink so that the same call gets the same answer after a crash."""

from __future__ import annotations

from typing import Any

import msgpack

from dsync.sdk import errors, types
from dsync_postgres.sink.ledger import Connection

_VERSION = 1


def save_prepared(connection: Connection, flow: str, run: str, prepared: types.Prepared) -> None:
    """Keep the answer, in the transaction of what it is about."""
    connection.execute(
        "INSERT INTO _dsync.prepared (flow, run, result) VALUES (%s, %s, %s)", [flow, run, encode_prepared(prepared)]
    )


def read_prepared(connection: Connection, flow: str, run: str) -> types.Prepared | None:
    """The answer that was kept for a run; None where there is none."""
    row = connection.execute("SELECT result FROM _dsync.prepared WHERE flow = %s AND run = %s", [flow, run]).fetchone()
    return None if row is None else decode_prepared(bytes(row[0]))


def encode_prepared(prepared: types.Prepared) -> bytes:
    """Versioned msgpack; the statements that were run are not kept."""
    packed: bytes = msgpack.packb(
        {
            "v": _VERSION,
            "namespaces": [
                [n.source, n.target, int(n.page_type), list(n.columns), n.upsert, n.existed, n.reason, n.anew]
                for n in prepared.namespaces
            ],
            "steps": [
                [s.id, s.kind, s.name, s.namespace, list(s.depends_on), s.payload, s.needs_source, s.makes_key]
                for s in prepared.steps
            ],
            "findings": [[f.code, int(f.severity), f.object, f.message, f.remedy] for f in prepared.findings],
        }
    )
    return packed


def decode_prepared(data: bytes) -> types.Prepared:
    """The inverse of `encode_prepared`.

    Raises:
        PermanentError: another version wrote it.
    """
    try:
        fields: Any = msgpack.unpackb(data)
        if fields["v"] != _VERSION:
            raise errors.PermanentError(
                f"preparing again: version {fields['v']} of the kept answer is not known here; use the dsync that "
                "began this run"
            )
        return types.Prepared(
            namespaces=tuple(
                types.PreparedNamespace(
                    source=source,
                    target=target,
                    page_type=types.PageType(page_type),
                    columns=tuple(columns),
                    upsert=upsert,
                    existed=existed,
                    anew=anew,
                    reason=reason,
                )
                for source, target, page_type, columns, upsert, existed, reason, anew in fields["namespaces"]
            ),
            steps=tuple(
                types.FinishStep(
                    id=step_id,
                    kind=kind,
                    name=name,
                    namespace=namespace,
                    depends_on=tuple(depends_on),
                    payload=payload,
                    needs_source=needs_source,
                    # Runs that were begun before keys were told apart have no such field.
                    makes_key=any(makes_key),
                )
                for step_id, kind, name, namespace, depends_on, payload, needs_source, *makes_key in fields["steps"]
            ),
            findings=tuple(
                types.Finding(
                    code=code, severity=types.Severity(severity), object=about, message=message, remedy=remedy
                )
                for code, severity, about, message, remedy in fields["findings"]
            ),
        )
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
        raise errors.PermanentError("preparing again: the kept answer in the sink's ledger cannot be read") from exc
