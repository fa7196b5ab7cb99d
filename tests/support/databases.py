"""Servers and databases for tests: started on first use, one fresh database a test, copies of prepared ones."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString

import psycopg
import pytest
from psycopg import sql

from dsync.quickstart.servers import EmbeddedPostgres, ServerError

Prepare = Callable[[str], object]
"""Fills the database behind a URI, and closes its connections before it returns."""

_numbers = itertools.count(1)


@dataclass(kw_only=True, eq=False)
class Database:
    """A database of one test."""

    server: EmbeddedPostgres
    """Where it lies."""
    name: str
    """Its name, unlike any other of this run."""
    _roles: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """Its URI, as superuser."""
        return self.server.uri(self.name)

    def connect(self, *, user: str = "postgres") -> psycopg.Connection:
        """Return a connection in autocommit mode."""
        return self.server.connect(self.name, user=user)

    def run(self, *statements: LiteralString | sql.Composed) -> None:
        """Run statements one after the other, each in a transaction of its own."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, query: LiteralString | sql.Composed, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.connect() as connection:
            return connection.execute(query, parameters or None).fetchall()

    def value(self, query: LiteralString | sql.Composed, parameters: Sequence[object] = ()) -> Any:
        """Return the only value of a query."""
        ((value,),) = self.rows(query, parameters)
        return value

    def owner_uri(self) -> str:
        """Return the URI of a new role that owns this database and is nothing else, as managed services give."""
        role = self.new_role("owner")
        self.run(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(self.name), sql.Identifier(role)))
        return self.server.uri(self.name, user=role)

    def reader_uri(self, *, replication: bool = False) -> str:
        """Return the URI of a new role that may SELECT from every table there is now, and do nothing else."""
        role = self.new_role("reader", attributes="LOGIN REPLICATION" if replication else "LOGIN")
        with self.connect() as connection:
            schemas = connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
            ).fetchall()
            for (schema,) in schemas:
                names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
                for grant in _READER_GRANTS:
                    connection.execute(sql.SQL(grant).format(**names))
        return self.server.uri(self.name, user=role)

    def drop(self) -> None:
        """Drop the database with whoever is in it, and the roles made for it."""
        if not self.server.is_running:
            return
        self.server.drop_database(self.name)
        with self.server.connect() as connection:
            for role in self._roles:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def new_role(self, kind: str, *, attributes: LiteralString = "LOGIN") -> str:
        """Make a role that is dropped with this database, and return its name."""
        role = f"{kind}_{self.name}"
        self.server.create_role(role, attributes=attributes)
        self._roles.append(role)
        return role


# Several test processes may run servers of three versions at a time, all of it in memory.
_SMALL: Mapping[str, str] = {"shared_buffers": "64MB", "max_wal_size": "256MB", "min_wal_size": "32MB"}

_READER_GRANTS: tuple[LiteralString, ...] = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
)


class DatabaseFactory:
    """Makes databases on one server; a fixture calls `drop_all` at the end of the test."""

    def __init__(self, server: EmbeddedPostgres, *, prefix: str) -> None:
        self.server = server
        """Where the databases are made."""
        self._prefix = prefix
        self._made: list[Database] = []

    def __call__(self, prepare: Prepare | None = None) -> Database:
        """Return a fresh database: empty, or a copy of a template that `prepare` has filled once."""
        name = f"{self._prefix}_{os.getpid()}_{next(_numbers)}"
        template = None if prepare is None else template_for(self.server, prepare)
        self.server.create_database(name, template=template or "template0")
        database = Database(server=self.server, name=name)
        self._made.append(database)
        return database

    def drop_all(self) -> None:
        """Drop what has been made."""
        while self._made:
            self._made.pop().drop()


def template_for(server: EmbeddedPostgres, prepare: Prepare) -> str:
    """Return the name of the server's database that `prepare` has filled, filling it on the first call."""
    templates: dict[Prepare, str] = _templates.setdefault(id(server), {})
    if prepare not in templates:
        name = f"template_{next(_numbers)}"
        prepare(server.create_database(name, template="template0"))
        templates[prepare] = name
    return templates[prepare]


_templates: dict[int, dict[Prepare, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PgPair:
    """The servers that a test copies between; they may be one."""

    source: EmbeddedPostgres
    """Where rows come from."""
    sink: EmbeddedPostgres
    """Where rows go."""


class PgServers:
    """The servers of one test process by major version, each started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[int, EmbeddedPostgres] = {}
        self._extra: list[EmbeddedPostgres] = []

    def shared(self, major: int) -> EmbeddedPostgres:
        """Return the server of a major version that all tests share; skips the test where it is not installed."""
        server = self._running.get(major)
        if server is None:
            server = self._running[major] = self._make(major)
        # A test may have stopped it, though it should have used one of its own.
        server.start()
        return server

    def own(
        self,
        major: int = 18,
        *,
        settings: Mapping[str, str] | None = None,
        auth: Literal["scram-sha-256", "trust"] = "scram-sha-256",
    ) -> EmbeddedPostgres:
        """Return a started server for one test alone, to be killed, stopped or configured."""
        server = self._make(major, settings=settings, auth=auth)
        self._extra.append(server)
        server.start()
        return server

    def close_own(self) -> None:
        """End the servers of one test."""
        while self._extra:
            self._extra.pop().close()

    def close(self) -> None:
        """End them all."""
        self.close_own()
        for server in self._running.values():
            server.close()
        self._running.clear()

    @staticmethod
    def _make(
        major: int,
        *,
        settings: Mapping[str, str] | None = None,
        auth: Literal["scram-sha-256", "trust"] = "scram-sha-256",
    ) -> EmbeddedPostgres:
        try:
            return EmbeddedPostgres(major, settings={**_SMALL, **(settings or {})}, auth=auth, in_memory=True)
        except ServerError as exc:
            pytest.skip(f"PostgreSQL {major} is not installed here: {exc}")
