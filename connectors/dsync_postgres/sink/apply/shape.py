"""A source's relation at the sink: which columns are written, what tells rows apart, and the statements for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

from dsync.sdk import errors, types
from dsync_postgres.sink.apply import statements
from dsync_postgres.sink.apply.fold import Key
from dsync_postgres.sink.apply.records import UNSENT, Values
from dsync_postgres.sink.apply.statements import Statement
from dsync_postgres.sink.targets import TargetColumn, TargetTable

Indexes = tuple[int, ...]
"""Of columns of the relation."""


class Shape:
    """One relation in one table. Its statements are made once; safe to share between threads."""

    def __init__(self, relation: types.ChangeRelation, table: TargetTable, *, is_referred: bool = False) -> None:
        """Find the relation's columns in the table.

        Raises:
            NamespaceChangedError: the table lacks one of them.
            UnsupportedError: there is none to write.
        """
        self.table = table
        self.namespace = relation.namespace
        """As the source calls it."""
        self.width = len(relation.columns)
        """How many values a row of the relation has."""
        self.columns = _columns_of(relation, table)
        """The sink's columns by index; the ones that the sink computes are absent."""
        self.written: Indexes = tuple(self.columns)
        if not self.written:
            raise errors.UnsupportedError(
                f"applying changes of {relation.namespace} to {table.name}: it has no column that could be written; "
                "leave it out of the flow"
            )
        self.key, self.is_unique = self._choose_key(relation)
        """What tells rows apart (nothing: all their values do), and whether a unique index of the sink says so too."""
        self.key_of: Callable[[Values], Key] = itemgetter(*self.key) if self.key else tuple
        """Takes the key out of a row."""
        others = [index for index in self.written if index not in self.key]
        self.fixed: Indexes = tuple(index for index in others if self.columns[index].identity_always)
        """No UPDATE can set these."""
        self.settable: Indexes = tuple(index for index in others if index not in self.fixed)
        self.can_move = not any(self.columns[index].identity_always for index in self.written)
        """An UPDATE can give a row another key."""
        self.is_referred = is_referred
        """Foreign keys lead to its rows, and are obeyed: what refers to a row would notice that it goes and comes."""
        self.delete = statements.delete(self) if self.key else None
        self.upsert = statements.upsert(self) if self.key else ()
        self.update = statements.update(self) if self.key and self.settable and not self.fixed else None
        self.add = statements.add(self)
        self.remove = statements.remove(self)
        self._evictions: dict[Indexes, tuple[Statement, ...]] = {}
        self._patches: dict[Indexes, Statement] = {}
        self._moves: dict[Indexes, Statement] = {}

    def sent(self, values: Values) -> Indexes:
        """Which of the columns that are written have come with a row."""
        return tuple(index for index in self.written if values[index] is not UNSENT)

    def evictions(self, sent: Indexes) -> tuple[Statement, ...]:
        """Make room for rows with these columns, where other rows have what only one may have."""
        if sent not in self._evictions:
            names = tuple(self.columns[index].name for index in sent)
            key = {self.columns[index].name for index in self.key}
            self._evictions[sent] = tuple(
                statements.evict(self, tuple(index for index in sent if self.columns[index].name in unique))
                for unique in self.table.uniques
                if set(unique) <= set(names) and not key <= set(unique)
            )
        return self._evictions[sent]

    def patch(self, sent: Indexes) -> Statement:
        """Sets values of rows that are there, and returns the places of those that were."""
        if sent not in self._patches:
            self._patches[sent] = statements.patch(self, sent)
        return self._patches[sent]

    def move(self, sent: Indexes) -> Statement:
        """Gives one row another key and these values; its parameters end with the old key."""
        if sent not in self._moves:
            self._moves[sent] = statements.move(self, sent)
        return self._moves[sent]

    def _choose_key(self, relation: types.ChangeRelation) -> tuple[Indexes, bool]:
        placed = sorted((c.key_position, index) for index, c in enumerate(relation.columns) if c.key_position)
        key = tuple(index for _, index in placed)
        by_name = {column.name for column in self.columns.values()}
        names = {relation.columns[index].name for index in key}
        if key and any(set(unique) == names for unique in self.table.keys):
            return key, True
        if relation.full_old_row and len(key) == self.width:
            # It only says that rows come whole. A key of the sink's own would hide rows that are double.
            return (), False
        unknown = sorted(name for name in names if name not in by_name)
        if unknown:
            raise errors.NamespaceChangedError(
                f"applying changes of {relation.namespace} to {self.table.name}: column {unknown[0]} is part of the "
                "source's replica identity and is computed at the sink; make it an ordinary column there, then "
                f"`dsync resync FLOW --table {relation.namespace}` copies it anew"
            ).about(relation.namespace)
        return key, False


def _columns_of(relation: types.ChangeRelation, table: TargetTable) -> dict[int, TargetColumn]:
    found: dict[int, TargetColumn] = {}
    for index, column in enumerate(relation.columns):
        there = table.column(column.name)
        if there is None:
            raise errors.NamespaceChangedError(
                f"applying changes of {relation.namespace} to {table.name}: the sink's table has no column "
                f"{column.name}; `dsync resync FLOW --table {relation.namespace}` makes and copies it anew"
            ).about(relation.namespace)
        if not there.generated:
            found[index] = there
    return found


def split(rows: Sequence[Values], indexes: Indexes) -> list[Sequence[bytes | None]]:
    """The rows' values by column, for the columns of these indexes."""
    columns = list(zip(*rows, strict=True))
    return [columns[index] for index in indexes]
