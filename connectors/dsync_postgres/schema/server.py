"""What a server and its database are: versions, roles, extensions, and what this role may do there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import LiteralString, TypeVar

from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.reading import Reading, Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The server, the database in it and our role."""

    version_num: int
    """As in 160014."""
    version: str
    user: str
    """The current role."""
    is_superuser: bool
    is_standby: bool
    database: str
    encoding: str
    """As in UTF8 or SQL_ASCII."""
    lc_monetary: str
    """The database's or role's setting, before our session pinned its own."""
    can_create: bool
    """CREATE on the database: new schemas and trusted extensions."""

    @property
    def major(self) -> int:
        """As in 16."""
        return self.version_num // 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFacts:
    """Another role of the server, seen from ours."""

    name: str
    can_become: bool
    """We may SET ROLE to it, and so give things to it."""
    has_its_rights: bool
    """We have its privileges without SET ROLE, and so can still work on what it owns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionFacts:
    """An extension that is installed, could be, or both."""

    name: str
    installed_version: str | None
    """None: not installed."""
    schema: str | None
    """Where it is installed."""
    is_owner: bool
    """It is installed, and ours."""
    default_version: str | None
    """None: its files are not there, so it cannot be installed."""
    may_create: bool
    """By our role, as far as superuser and trust are concerned."""
    sequences: tuple[TableName, ...] = ()
    """Its sequences whose position is the users', as far as it may be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFacts:
    """A schema that exists."""

    name: str
    owner: str
    may_create: bool
    """CREATE in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TablespaceFacts:
    """A tablespace that exists."""

    name: str
    may_create: bool


_SERVER: LiteralString = """
SELECT current_setting('server_version_num')::int AS version_num, current_setting('server_version') AS version,
       current_user::text AS "user", r.rolsuper AS is_superuser, pg_is_in_recovery() AS is_standby,
       d.datname::text AS database, pg_encoding_to_char(d.encoding)::text AS encoding,
       (SELECT s.reset_val FROM pg_settings s WHERE s.name = 'lc_monetary') AS lc_monetary,
       has_database_privilege(d.oid, 'CREATE') AS can_create
FROM pg_database d, pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user
"""

# The privilege SET came with 16; before that membership alone allowed SET ROLE.
_ROLES: LiteralString = """
SELECT r.rolname::text AS name,
       pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
           AS can_become,
       pg_has_role(r.oid, 'USAGE') AS has_its_rights
FROM pg_roles r ORDER BY r.rolname COLLATE "C"
"""

_EXTENSIONS: LiteralString = """
SELECT coalesce(a.name, e.extname)::text AS name, e.extversion AS installed_version, n.nspname::text AS schema,
       coalesce(pg_has_role(e.extowner, 'USAGE'), false) AS is_owner, a.default_version,
       coalesce(v.trusted OR NOT v.superuser OR r.rolsuper, false) AS may_create,
       ARRAY(SELECT ARRAY[sn.nspname::text, s.relname::text]
             FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace
             WHERE s.oid = ANY (e.extconfig) AND has_schema_privilege(sn.oid, 'USAGE')
               AND CASE WHEN s.relkind = 'S' THEN has_sequence_privilege(s.oid, 'SELECT') END
             ORDER BY s.oid) AS sequences
FROM pg_available_extensions() a
FULL JOIN pg_extension e ON e.extname = a.name
LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_available_extension_versions() v ON v.name = a.name AND v.version = a.default_version
CROSS JOIN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) r
"""

_SCHEMAS: LiteralString = """
SELECT nspname::text AS name, pg_get_userbyid(nspowner)::text AS owner,
       has_schema_privilege(oid, 'CREATE') AS may_create
FROM pg_namespace
"""

_TABLESPACES: LiteralString = """
SELECT spcname::text AS name, has_tablespace_privilege(oid, 'CREATE') AS may_create FROM pg_tablespace
"""

# A collation of the catalogue can be used only with the encodings it is for.
_COLLATIONS: LiteralString = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname) AS name
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE c.collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))
"""


def _by_name(kind: Callable[..., T]) -> Callable[[Iterable[Row]], dict[str, T]]:
    return lambda rows: {row["name"]: kind(**row) for row in rows}


def _extensions(rows: Iterable[Row]) -> dict[str, ExtensionFacts]:
    found = {}
    for row in rows:
        sequences = tuple(TableName(schema=schema, name=name) for schema, name in row.pop("sequences"))
        found[row["name"]] = ExtensionFacts(**row, sequences=sequences)
    return found


def _names(rows: Iterable[Row]) -> frozenset[str]:
    return frozenset(row["name"] for row in rows)


def _one_server(rows: list[Row]) -> ServerFacts:
    return ServerFacts(**rows[0])


read_server = Reading(_one_server, _SERVER)
"""What the connection is connected to, and as whom."""

read_roles = Reading(_by_name(RoleFacts), _ROLES)
"""All roles of the server by name."""

read_extensions = Reading(_extensions, _EXTENSIONS)
"""The extensions that are installed in this database or could be, by name."""

read_schemas = Reading(_by_name(SchemaFacts), _SCHEMAS)
"""All schemas by name."""

read_tablespaces = Reading(_by_name(TablespaceFacts), _TABLESPACES)
"""All tablespaces by name."""

read_access_methods = Reading(_names, "SELECT amname::text AS name FROM pg_am WHERE amtype = 't'")
"""The names of the table access methods."""

read_collations = Reading(_names, _COLLATIONS)
"""The qualified, quoted names of the collations that this database can use."""
