"""What the sink knows of the tables that are being filled: asked once for all of them, and again after a change."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from dsync.sdk import errors, types
from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.ledger import Connection
from dsync_postgres.sink.targets import TargetTable, may_be_replica, read_targets


class Destinations:
    """The tables of one sink; its methods are called from the threads that own the connections given to them."""

    def __init__(self) -> None:
        self._expected: set[str] = set()
        self._tables: dict[str, TargetTable] = {}
        self._may_be_replica: bool | None = None
        self._looking = threading.Lock()

    def expect(self, namespaces: Iterable[str]) -> None:
        """Take note of tables that will be written: looked up together, a thousand cost little more than one."""
        self._expected.update(name for name in namespaces if name)

    def forget(self, namespace: str = "") -> None:
        """Look again: at one table, or at all of them."""
        with self._looking:
            if namespace:
                self._tables.pop(namespace, None)
            else:
                self._tables.clear()

    def forget_key(self, namespace: str) -> None:
        """Look again at a table that has got a key, and at those above partitions, whose keys are made of theirs."""
        with self._looking:
            self._tables.pop(namespace, None)
            for name in [name for name, table in self._tables.items() if table.kind == "p"]:
                del self._tables[name]

    def table(self, connection: Connection, namespace: str) -> TargetTable:
        """The table of that name.

        Raises:
            NamespaceChangedError: there is none.
            UnsupportedError: what has the name takes no rows.
        """
        with self._looking:
            if namespace not in self._tables:
                self._look(connection, namespace)
            table = self._tables.get(namespace)
        if table is None:
            raise errors.NamespaceChangedError(
                f"writing {namespace}: the sink has no such table; create it there first"
            )
        if table.kind not in "rp":
            raise errors.UnsupportedError(f"writing {namespace}: it is no table at the sink, so it takes no rows")
        return table

    def _look(self, connection: Connection, namespace: str) -> None:
        missing = {namespace, *(name for name in self._expected if name not in self._tables)}
        names = [TableName.parse(name) for name in missing if name == namespace or _is_table_name(name)]
        for name, table in read_targets(connection, names).items():
            self._tables[name.namespace] = table

    def as_replica(self, connection: Connection, table: TargetTable, context: types.WriteContext | None) -> bool:
        """Whether triggers and foreign keys have to be kept from firing by session_replication_role.

        Raises:
            NamespaceChangedError: they would fire although the flow had set them aside.
        """
        if not table.fires:
            return False
        if not table.fires_in_replica and self.can_be_replica(connection):
            return True
        if context is None:
            # Without `prepare` nobody could have set them aside; such a coordinator lives with what they do.
            return False
        raise errors.NamespaceChangedError(
            f"writing {table.name}: its triggers or foreign keys are on again though this flow had set them aside; "
            "disable them, or start again with `dsync reset`"
        )

    def can_be_replica(self, connection: Connection) -> bool:
        """Whether this role may set session_replication_role."""
        if self._may_be_replica is None:
            self._may_be_replica = may_be_replica(connection)
        return self._may_be_replica


def _is_table_name(namespace: str) -> bool:
    try:
        TableName.parse(namespace)
    except errors.RequestError:
        return False
    return True
