"""Names of tables and other objects that live in a schema."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from dsync.sdk import errors, namespaces


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TableName:
    """A table, view or another relation by its schema and its name, both exactly as in the catalogue."""

    schema: str
    name: str

    @classmethod
    def parse(cls, namespace: str) -> TableName:
        """Return the table that a written namespace means; the inverse of `namespace`.

        Raises:
            RequestError: it does not have exactly two parts.
        """
        parts = namespaces.split(namespace)
        if len(parts) != 2:
            raise errors.RequestError(
                f"namespace {namespace!r}: a PostgreSQL table is written schema.table, with double quotes around "
                "a part that contains a dot"
            )
        return cls(schema=parts[0], name=parts[1])

    @property
    def namespace(self) -> str:
        """The written form that users and the protocol see."""
        return namespaces.join((self.schema, self.name))

    @property
    def identifier(self) -> sql.Identifier:
        """The name for use in SQL."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return self.namespace
