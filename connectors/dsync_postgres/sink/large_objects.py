"""Large objects at the sink: which of them are a flow's, what stands in their way, and writing their pieces.

An object keeps its oid, since that is what columns refer to. What a flow has made is noted beside the ledger, in the
transaction that makes it: those objects it may remove again, and no others.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from dsync.sdk import errors, failpoint, types
from dsync_postgres import large_objects as large
from dsync_postgres.errors import describe, translate
from dsync_postgres.schema.findings import Finding, warn
from dsync_postgres.schema.privileges import missing_owner_remedy
from dsync_postgres.schema.server import RoleFacts, read_roles, read_server
from dsync_postgres.sink import wire
from dsync_postgres.sink.claims import Claim, check_fence, reset_units
from dsync_postgres.sink.ledger import Connection, Guard, standing
from dsync_postgres.sink.rivals import Rival, read_rivals

Policy = types.OnExisting

# Made when the first flow brings large objects: a ledger without it is complete.
_NOTES = """
CREATE TABLE IF NOT EXISTS _dsync.large_object (
  oid oid PRIMARY KEY,
  flow text COLLATE "C" NOT NULL
);
CREATE INDEX IF NOT EXISTS large_object_flow ON _dsync.large_object (flow, oid);
"""
_HAS_NOTES = "SELECT to_regclass('_dsync.large_object') IS NOT NULL"
_REPLACING = (Policy.APPEND, Policy.TRUNCATE, Policy.DROP)
_EVERY_OID = [[0, 2**32 - 1]]
_MOST_NAMED = 10
_REMOVED_AT_ONCE = large.LONGEST_PIECES


# ------------------------------------------------------------------- preparing


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeLoad:
    """How large objects are to be loaded."""

    page_type: types.PageType
    columns: tuple[str, ...]
    replaces: bool
    """Objects that are there under the same oids give way."""
    anew: bool
    """Nothing of an earlier run of this flow is there."""
    taken: tuple[Rival, ...]
    """Claims of other flows that end."""
    findings: tuple[Finding, ...]

    @property
    def claim(self) -> Claim:
        """What the flow fills."""
        return Claim(namespace=large.NAMESPACE, relation=large.RELATION_OID, was_empty=not self.replaces, created=False)

    @property
    def prepared(self) -> types.PreparedNamespace:
        """What the coordinator is told."""
        return types.PreparedNamespace(
            source=large.NAMESPACE,
            target=large.NAMESPACE,
            page_type=self.page_type,
            columns=self.columns,
            upsert=self.replaces,
            existed=False,
            reason="the cheapest form that both ends share",
            anew=self.anew,
        )


def plan_load(
    connection: Connection,
    request: types.PrepareRequest,
    coming: Mapping[str, Any],
    claims: Mapping[str, Claim],
    *,
    has_ledger: bool,
) -> LargeLoad | None:
    """How large objects are to be loaded, if they are among what is asked for; reads, and changes nothing.

    `coming` is what the source has said of them.

    Raises:
        RequestError: they are to get another name.
        SinkNotEmptyError: objects with these oids are there that are not this flow's, or another flow is filling them.
    """
    mapping = next((item for item in request.mappings if item.source == large.NAMESPACE), None)
    if mapping is None:
        return None
    if mapping.target != large.NAMESPACE:
        raise errors.RequestError(
            f"preparing {mapping.target}: large objects have no name but their oids; leave the mapping of "
            f"{large.NAMESPACE} out"
        )
    policy, claim = request.on_existing, claims.get(large.NAMESPACE)
    rivals = read_rivals(connection, request.flow, [large.RELATION_OID]) if has_ledger else {}
    others = rivals.get(large.RELATION_OID, ())
    replaces = policy in _REPLACING if claim is None else not claim.was_empty
    if not replaces:
        _require_room(connection, request.flow, coming, others)
    return LargeLoad(
        page_type=request.page_types[0] if request.page_types else types.PageType.PG_COPY_BINARY,
        columns=_wanted(request),
        replaces=replaces,
        anew=claim is None,
        taken=others if claim is None and policy in (Policy.TRUNCATE, Policy.DROP) else (),
        findings=tuple(_findings(connection, request, coming)),
    )


def _wanted(request: types.PrepareRequest) -> tuple[str, ...]:
    more = (
        *(() if request.no_owner else (large.OWNER,)),
        *(() if request.no_privileges else (large.PRIVILEGES,)),
        large.COMMENT,
    )
    return (*large.CONTENT, *more)


def _require_room(connection: Connection, flow: str, coming: Mapping[str, Any], others: Sequence[Rival]) -> None:
    filling = next((rival for rival in others if rival.is_filling), None)
    if filling is not None:
        raise errors.SinkNotEmptyError(
            f"flow {filling.name} is filling large objects of the sink and has not finished them; nothing was changed. "
            f"Let it finish, end it with `dsync reset {filling.name}`, or leave them out: --exclude {large.NAMESPACE}"
        )
    found = _in_the_way(connection, flow, coming.get("ranges") or _EVERY_OID)
    if found:
        listed = ", ".join(map(str, found[:_MOST_NAMED])) + (" and more" if len(found) > _MOST_NAMED else "")
        raise errors.SinkNotEmptyError(
            f"the sink has large objects that are not this flow's under oids that the source's have: {listed}; nothing "
            "was changed. --on-existing append (or truncate, drop) puts the source's in their place, --exclude "
            f"{large.NAMESPACE} leaves all of them out; or copy into another database"
        )


def _in_the_way(connection: Connection, flow: str, ranges: Sequence[Sequence[int]]) -> list[int]:
    ((has_notes,),) = connection.execute(_HAS_NOTES).fetchall()
    ours = "EXISTS (SELECT FROM _dsync.large_object n WHERE n.oid = m.oid AND n.flow = %(flow)s)"
    rows = connection.execute(
        (
            "SELECT m.oid::int8 FROM unnest(%(lows)s::oid[], %(highs)s::oid[]) AS r (low, high)"
            " JOIN pg_largeobject_metadata m ON m.oid BETWEEN r.low AND r.high"
            f" WHERE NOT {ours if has_notes else 'false'} ORDER BY 1 LIMIT {_MOST_NAMED + 1}"
        ).encode(),
        {"lows": [low for low, _ in ranges], "highs": [high for _, high in ranges], "flow": flow},
    )
    return [oid for (oid,) in rows]


def _findings(connection: Connection, request: types.PrepareRequest, coming: Mapping[str, Any]) -> Iterator[Finding]:
    server, roles = read_server(connection), read_roles(connection)
    for owner in coming.get("owners", ()) if not request.no_owner else ():
        if owner != server.user and not _may_give(roles.get(owner), is_superuser=server.is_superuser):
            yield warn(
                "owner-kept",
                owner,
                f"large objects will belong to {server.user} instead of this role",
                missing_owner_remedy(roles, owner),
            )
    for role in coming.get("grantees", ()) if not request.no_privileges else ():
        if role not in roles:
            yield warn(
                "grant-left-out",
                role,
                "the sink has no such role, so privileges on large objects are not granted to or by it",
                f'create the role "{role}" at the sink first, or use --no-privileges',
            )


def _may_give(role: RoleFacts | None, *, is_superuser: bool) -> bool:
    return role is not None and (is_superuser or (role.can_become and role.has_its_rights))


def make_notes(connection: Connection) -> None:
    """Make the place where the flows' objects are noted; in the transaction of the claim. Repeatable."""
    ((has_notes,),) = connection.execute(_HAS_NOTES).fetchall()
    if not has_notes:
        connection.execute(_NOTES.encode())


def forget(connection: Connection, flow: str) -> int:
    """Forget which objects are a flow's; they stay. Returns their number."""
    ((has_notes,),) = connection.execute(_HAS_NOTES).fetchall()
    if not has_notes:
        return 0
    return connection.execute("DELETE FROM _dsync.large_object WHERE flow = %s", [flow]).rowcount


def are_noted(connection: Connection) -> bool:
    """Whether any flow has made objects here."""
    ((has_notes,),) = connection.execute(_HAS_NOTES).fetchall()
    if not has_notes:
        return False
    ((found,),) = connection.execute("SELECT EXISTS (SELECT FROM _dsync.large_object)").fetchall()
    return bool(found)


# -------------------------------------------------------------------- clearing


def clear(connection: Connection, context: types.WriteContext, units: Sequence[str]) -> None:
    """Remove the large objects that the flow has made and reset those units; a transaction for some objects each.

    Repeatable: what is gone is forgotten with it. The units are reset last, so whoever asked for it asks again after a
    crash in between.

    Raises:
        FencedError: another coordinator has the unit.
        PrivilegeError: an object belongs to a role whose rights this one has not.
    """
    left = True
    while left:
        with connection.transaction():
            check_fence(connection, context)
            left = _remove_some(connection, context.flow)
            if not left:
                reset_units(connection, context, large.NAME, units)
                failpoint("sink.before_clear_commit")
    failpoint("sink.after_clear_commit")


def _remove_some(connection: Connection, flow: str) -> bool:
    """Remove some of the flow's objects, in the transaction that the caller has open; False where none was left.

    Each takes a lock to the end of its transaction, so all of them at once would be too many.
    """
    rows = connection.execute(
        "DELETE FROM _dsync.large_object WHERE oid IN"
        f" (SELECT oid FROM _dsync.large_object WHERE flow = %s ORDER BY oid LIMIT {_REMOVED_AT_ONCE})"
        " RETURNING oid::int8".encode(),
        [flow],
    ).fetchall()
    try:
        connection.execute(_UNLINK, [[oid for (oid,) in rows]])
    except psycopg.Error as exc:
        raise translate(exc, f"clearing {large.NAMESPACE}") from exc
    return bool(rows)


_UNLINK = "SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = ANY(%s::oid[])"


# --------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    oid: int
    start: int
    data: bytes
    about: Mapping[str, str]
    """What is said of the object as a whole; nothing before its last piece."""


class _WrittenBeforeError(Exception):
    """The ledger has this very write."""


def write(
    connection: Connection,
    request: types.WriteRequest,
    columns: Sequence[str],
    body: types.Buffer,
    *,
    is_binary: bool,
    rows: int,
) -> int:
    """Write pieces and their ledger row in one transaction; returns how many.

    Raises:
        NamespaceChangedError: an object that is not this flow's is in the way, or one of the flow's has gone.
        FencedError: another coordinator has the unit.
    """
    pieces = list(_parse(body, columns, is_binary=is_binary)) if rows else []
    if len(pieces) != rows:
        raise errors.PluginBugError(
            f"writing {large.NAMESPACE}: a page said to have {rows} rows brought {len(pieces)}; nothing of it was kept"
        )
    guard = None if request.context is None else Guard(context=request.context, unlogged=False)
    try:
        with connection.transaction():
            # What others have committed while this one waited has to be seen, whatever the server's default is.
            connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            if guard is not None and guard.is_repeat(standing(connection, guard)):
                raise _WrittenBeforeError
            _write(connection, request, pieces)
            failpoint("sink.before_commit")
            if guard is not None:
                connection.execute(guard.move(rows=rows, size_bytes=len(body) if rows else 0))
    except _WrittenBeforeError:
        return rows
    except psycopg.Error as exc:
        if _is_written(connection, guard):
            return rows
        raise _translated(exc) from exc
    failpoint("sink.after_commit")
    return rows


def _is_written(connection: Connection, guard: Guard | None) -> bool:
    """A message whose answer was lost is still carried out, and then meets its own repeat."""
    if connection.closed or guard is None:
        return False
    return guard.is_repeat(standing(connection, guard))


def _write(connection: Connection, request: types.WriteRequest, pieces: Sequence[_Piece]) -> None:
    begun = [piece.oid for piece in pieces if not piece.start]
    if begun:
        if request.upsert:
            connection.execute(_UNLINK, [begun])
        connection.execute("SELECT lo_create(oid) FROM unnest(%s::oid[]) oid", [begun])
        if request.context is not None:
            connection.execute(
                "INSERT INTO _dsync.large_object (oid, flow) SELECT oid, %s FROM unnest(%s::oid[]) oid"
                " ON CONFLICT (oid) DO UPDATE SET flow = excluded.flow",
                [request.context.flow, begun],
            )
    # What is all zeros reads as zeros where nothing is, but for the end, which says how long the object is.
    followed = {(one.oid, one.start) for one, other in pairwise(pieces) if one.oid == other.oid}
    filled = [
        piece
        for piece in pieces
        if piece.data and ((piece.oid, piece.start) not in followed or piece.data.strip(b"\0"))
    ]
    if filled:
        connection.execute(
            "SELECT lo_put(oid, start, data) FROM unnest(%b::oid[], %b::int8[], %b::bytea[]) AS p (oid, start, data)",
            [[piece.oid for piece in filled], [piece.start for piece in filled], [piece.data for piece in filled]],
        )
    statements = list(_about(connection, pieces))
    if statements:
        wire.execute(connection, statements)


def _translated(exc: psycopg.Error) -> errors.DsyncError:
    operation = f"writing {large.NAMESPACE}"
    if isinstance(exc, psycopg.errors.UniqueViolation):
        return errors.NamespaceChangedError(
            f"{operation}: the sink has got a large object with one of these oids that is not this flow's; remove it "
            "there, or start again with `dsync reset` and --on-existing append"
        )
    if isinstance(exc, psycopg.errors.UndefinedObject):
        return errors.NamespaceChangedError(
            f"{operation}: {describe(exc)}; somebody has removed it or a role while it was copied: start again with "
            "`dsync reset`"
        )
    return translate(exc, operation)


# ------------------------------------------------- owners, privileges, comments


def _about(connection: Connection, pieces: Sequence[_Piece]) -> Iterator[sql.Composable]:
    """What is said of the objects that are complete with these pieces."""
    complete = [piece for piece in pieces if piece.about]
    if not complete:
        return
    server, roles = read_server(connection), read_roles(connection)
    for piece in complete:
        oid, owner = sql.Literal(piece.oid), piece.about.get(large.OWNER, server.user)
        if (comment := piece.about.get(large.COMMENT)) is not None:
            yield sql.SQL("COMMENT ON LARGE OBJECT {} IS {}").format(oid, sql.Literal(comment))
        if owner != server.user and not _may_give(roles.get(owner), is_superuser=server.is_superuser):
            owner = server.user
        if owner != server.user:
            yield sql.SQL("ALTER LARGE OBJECT {} OWNER TO {}").format(oid, sql.Identifier(owner))
        if (privileges := piece.about.get(large.PRIVILEGES)) is not None:
            yield from _grants(oid, owner, json.loads(privileges), roles, is_superuser=server.is_superuser)


_OWNERS_DEFAULT = {("SELECT", False), ("UPDATE", False)}


def _grants(
    oid: sql.Literal, owner: str, privileges: list[Any], roles: Mapping[str, RoleFacts], *, is_superuser: bool
) -> Iterator[sql.Composable]:
    """As they were at the source, the owner's first: others may pass on only what they have got. Missing roles lack."""
    own = {(privilege, grantable) for _, kind, _, privilege, grantable in privileges if kind == "owner"}
    if own != _OWNERS_DEFAULT:
        yield sql.SQL("REVOKE ALL ON LARGE OBJECT {} FROM {}").format(oid, sql.Identifier(owner))
    for grantor, kind, role, privilege, grantable in sorted(privileges, key=lambda item: item[0] is not None):
        if (kind == "owner" and own == _OWNERS_DEFAULT) or (kind == "role" and role not in roles):
            continue
        if grantor is not None and not _may_give(roles.get(grantor), is_superuser=is_superuser):
            continue
        grantee = {"owner": sql.Identifier(owner), "public": sql.SQL("PUBLIC")}.get(kind) or sql.Identifier(role)
        if grantor is not None:
            yield sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(grantor))
        yield sql.SQL("GRANT {} ON LARGE OBJECT {} TO {}{}").format(
            sql.SQL(privilege), oid, grantee, sql.SQL(" WITH GRANT OPTION" if grantable else "")
        )
        if grantor is not None:
            yield sql.SQL("RESET ROLE")


# --------------------------------------------------------------------- parsing

_COUNT, _LENGTH = struct.Struct(">h"), struct.Struct(">i")
_HEADER_BYTES = 19
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _parse(body: types.Buffer, columns: Sequence[str], *, is_binary: bool) -> Iterator[_Piece]:
    """The pieces of a COPY stream."""
    read: Callable[[types.Buffer], Iterator[list[bytes | None]]] = _binary_rows if is_binary else _text_rows
    for row in read(body):
        fields = dict(zip(columns, row, strict=True))
        oid, start, data = (fields[name] or b"" for name in large.CONTENT)
        yield _Piece(
            oid=int.from_bytes(oid, "big") if is_binary else int(oid),
            start=int.from_bytes(start, "big") if is_binary else int(start),
            data=data if is_binary else bytes.fromhex(data[2:].decode("ascii")),
            about={
                name: value.decode()
                for name, value in fields.items()
                if name not in large.CONTENT and value is not None
            },
        )


def _binary_rows(body: types.Buffer) -> Iterator[list[bytes | None]]:
    view, position = memoryview(body), _HEADER_BYTES
    while True:
        (count,) = _COUNT.unpack_from(view, position)
        position += _COUNT.size
        if count < 0:
            return
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(view, position)
            position += _LENGTH.size
            row.append(None if length < 0 else bytes(view[position : position + length]))
            position += max(0, length)
        yield row


def _text_rows(body: types.Buffer) -> Iterator[list[bytes | None]]:
    for line in bytes(body).splitlines():
        yield [None if field == rb"\N" else _unescaped(field) for field in line.split(b"\t")]


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), field)
