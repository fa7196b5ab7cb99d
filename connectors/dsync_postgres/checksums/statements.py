"""The SQL of checksums: row texts, their hashes, and which rows a range or a list of keys means.

A row's text is `ROW(columns)::text`, made by the types' own output functions: it tells NULL from '', 1.0 from 1.00
and the spacing of json apart, which the server's `hash_record_extended` does not, and it needs no alias that a
column could shadow. Each function returns composed SQL; nothing here contacts a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from dsync.sdk import types
from dsync_postgres import large_objects as large
from dsync_postgres.schema.names import TableName

HASHTEXT = "hashtextextended"
MD5 = "md5"

_FIRST_NORMAL_XID = 3
_XID_CIRCLE = 1 << 32
XID_HALF_CIRCLE = 1 << 31
_MASK_128 = (1 << 128) - 1
# Three seeds: two halves of a row's hash, and the bucket, which has to be independent of both.
_SEED_BUCKET, _SEED_HIGH, _SEED_LOW = 0, 1, 2


def combine(high: int, low: int) -> int:
    """The 128-bit number of two signed halves, or of the sums of many; sums of rows equal the sum of the halves."""
    return ((high << 64) + low) & _MASK_128


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """What is read: a table of its own rows, or a partitioned parent with those of its partitions."""

    table: TableName
    is_parent: bool = False
    """Partitioned: it has no rows of its own, so asking for it means its partitions'."""
    condition: str = ""
    """Rows that do not meet it do not exist, in brackets; empty: all do."""

    def within(self, lower: Sequence[str], upper: Sequence[str]) -> sql.Composed:
        """For FROM, where no more is wanted than rows whose key lies between these, both included.

        Of a table that is for its indexes to find out; large objects have to be measured one by one.
        """
        if self.table != large.NAME:
            return self.from_item
        first = sql.Literal(int(lower[0])) if lower else sql.NULL
        end = sql.Literal(int(upper[0]) + 1) if upper else sql.NULL
        return sql.SQL('{} AS "dsync row"').format(large.pieces(first, end))

    @property
    def from_item(self) -> sql.Composed:
        """For FROM; inheritance children have namespaces of their own and are left out by ONLY.

        The alias keeps a column that the table does not have from being read as the whole row of a table of that name.
        """
        if self.table == large.NAME:
            return self.within((), ())
        only = sql.SQL("") if self.is_parent else sql.SQL("ONLY ")
        return sql.SQL('{}{} AS "dsync row"').format(only, self.table.identifier)

    @property
    def kept(self) -> sql.Composable:
        """The condition of the rows that exist."""
        return sql.SQL(self.condition or "true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashing:
    """How texts are hashed at this server, under the algorithm that both ends use."""

    algorithm: str
    is_utf8: bool
    """The server's encoding is UTF-8; of others the texts are converted, so that both ends hash equal bytes."""

    def row_hash(self, text: sql.Composable) -> tuple[sql.Composed, sql.Composed]:
        """Both halves as int8."""
        if self.algorithm == HASHTEXT:
            return self._hashtext(text, _SEED_HIGH), self._hashtext(text, _SEED_LOW)
        return _hex_to_int8("left", text), _hex_to_int8("right", text)

    def digest(self, text: sql.Composable) -> sql.Composable:
        """What `row_hash` takes: the row's text itself, or its md5, which is then computed once."""
        return text if self.algorithm == HASHTEXT else self._md5(text)

    def bucket(self, text: sql.Composable, buckets: int) -> sql.Composed:
        """The bucket of a text, from 0, alike at every server; a divisor's bucket is the remainder of it."""
        if self.algorithm == HASHTEXT:
            number = self._hashtext(text, _SEED_BUCKET)
        else:
            number = _hex_to_int8("left", self._md5(text))
        return bucket_of(number, buckets)

    @staticmethod
    def _hashtext(text: sql.Composable, seed: int) -> sql.Composed:
        return sql.SQL('hashtextextended({} COLLATE "C", {})').format(text, sql.Literal(seed))

    def _md5(self, text: sql.Composable) -> sql.Composed:
        return sql.SQL("md5({})" if self.is_utf8 else "md5(convert_to({}, 'UTF8'))").format(text)


def _hex_to_int8(end: str, digest: sql.Composable) -> sql.Composed:
    return sql.SQL("('x' || {}({}, 16))::bit(64)::int8").format(sql.SQL("left" if end == "left" else "right"), digest)


def bucket_of(number: sql.Composable, buckets: int) -> sql.Composed:
    """An int8 as one of so many buckets; the sign bit is masked, since abs() of the smallest int8 is an error."""
    return sql.SQL("(({}) & 9223372036854775807) % {}").format(number, sql.Literal(buckets))


def row_text(columns: Sequence[str]) -> sql.Composed:
    """One text for the values of these columns, in this order; '()' for none."""
    return sql.SQL("ROW({})::text").format(sql.SQL(", ").join(map(sql.Identifier, columns)))


def in_range(key: Sequence[str], key_range: types.KeyRange) -> sql.Composable:
    """The condition of a range. Bounds are untyped literals: they take the type of the column beside them."""
    names = sql.SQL(", ").join(map(sql.Identifier, key))
    bounds = ((sql.SQL(">="), key_range.lower), (sql.SQL("<"), key_range.upper))
    conditions = [
        sql.SQL("ROW({}) {} ROW({})").format(names, comparison, sql.SQL(", ").join(map(sql.Literal, bound)))
        for comparison, bound in bounds
        if bound
    ]
    return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")


def key_equals(key: Sequence[tuple[str, bool]], keys: Sequence[Sequence[str]]) -> sql.Composable:
    """The condition of single keys.

    A column comes with whether its type's `=` can be found: an extension's may live outside pg_catalog, the only schema
    we search, and is then compared by text, which no index helps with.
    """
    names = sql.SQL(", ").join(
        sql.Identifier(column)
        if has_operator
        else sql.SQL("format('%s', {}) COLLATE \"C\"").format(sql.Identifier(column))
        for column, has_operator in key
    )
    if len(key) == 1:
        return sql.SQL("{} IN ({})").format(names, sql.SQL(", ").join(sql.Literal(values[0]) for values in keys))
    rows = (sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, values))) for values in keys)
    return sql.SQL("({}) IN ({})").format(names, sql.SQL(", ").join(rows))


def written_since(xmin: int) -> sql.Composed:
    """The condition that a row's version is of this 64-bit transaction or a later one.

    Versions carry 32 bits of it: half the circle lies ahead of any number. A frozen one keeps its number.
    """
    return sql.SQL("(xmin::text::int8 >= {} AND ((xmin::text::int8 - {}) & {}) < {})").format(
        *map(sql.Literal, (_FIRST_NORMAL_XID, xmin % _XID_CIRCLE, _XID_CIRCLE - 1, XID_HALF_CIRCLE))
    )


def in_buckets(number: sql.Composable, only: Sequence[int]) -> sql.Composable:
    """The condition of some buckets; none means all. As an array the server hashes it (14 and later)."""
    if not only:
        return sql.SQL("true")
    members = ",".join(map(str, only))
    return sql.SQL("{} = ANY ({}::int8[])").format(number, sql.Literal("{" + members + "}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedRows:
    """The rows that a checksum request means, with their hashes."""

    relation: Relation
    hashing: Hashing
    request: types.ChecksumRequest

    def sums(self) -> sql.Composed:
        """One row a bucket: bucket, count, sum of high halves, sum of low halves."""
        totals = sql.SQL("count(*), coalesce(sum(hi), 0)::text, coalesce(sum(lo), 0)::text FROM {} h")
        if self.request.buckets == 1:
            return sql.SQL("SELECT 0, ") + totals.format(self._hashed(with_key=False))
        return sql.SQL("SELECT b, ") + totals.format(self._hashed(with_key=False)) + sql.SQL(" GROUP BY b")

    def each(self) -> sql.Composed:
        """One row a record: hi, lo, then the key's values; without a key hi, lo and how many records have them."""
        if not self.request.key:
            return sql.SQL("SELECT hi, lo, count(*) FROM {} h GROUP BY 1, 2").format(self._hashed(with_key=False))
        names = _listed(_key_names(self.request.key))
        return sql.SQL("SELECT hi, lo{} FROM {} h").format(names, self._hashed(with_key=True))

    def _hashed(self, *, with_key: bool) -> sql.Composed:
        """A subquery with hi, lo, b where there are several buckets, and the key's values where asked for.

        OFFSET 0 keeps the planner from pulling up what is used twice and would then be computed twice.
        """
        if self.request.buckets == 1:
            return self._hashes_of(self._texts(with_key=with_key), [], with_key=with_key)
        if self.request.key:
            return self._hashes_of(self._texts(with_key=with_key), [sql.SQL("b")], with_key=with_key)
        bucket = bucket_of(sql.SQL("lo"), self.request.buckets)
        return sql.SQL("(SELECT hi, lo, {} AS b FROM {} u WHERE {})").format(
            bucket,
            self._hashes_of(self._texts(with_key=False), [], with_key=False),
            in_buckets(bucket, self.request.only_buckets),
        )

    def _hashes_of(self, texts: sql.Composed, others: list[sql.Composable], *, with_key: bool) -> sql.Composed:
        high, low = self.hashing.row_hash(sql.SQL("t"))
        names = _key_names(self.request.key) if with_key else []
        return sql.SQL("(SELECT {} AS hi, {} AS lo{} FROM {} r OFFSET 0)").format(
            high, low, _listed([*others, *names]), texts
        )

    def _texts(self, *, with_key: bool) -> sql.Composed:
        """The innermost level, and the only one that names the table's columns."""
        request = self.request
        bucket = self.hashing.bucket(row_text(request.key), request.buckets)
        is_bucketed = request.buckets > 1 and bool(request.key)
        others = [sql.SQL("{} AS b").format(bucket)] if is_bucketed else []
        if with_key:
            pairs = zip(request.key, _key_names(request.key), strict=True)
            others += [sql.SQL("{} AS {}").format(sql.Identifier(column), name) for column, name in pairs]
        return sql.SQL("(SELECT {} AS t{} FROM {} WHERE {} AND {} AND {} OFFSET 0)").format(
            self.hashing.digest(row_text(request.columns)),
            _listed(others),
            self.relation.within(request.range.lower, request.range.upper),
            self.relation.kept,
            in_range(request.key, request.range),
            in_buckets(bucket, request.only_buckets) if is_bucketed else sql.SQL("true"),
        )


def _listed(items: Iterable[sql.Composable]) -> sql.Composed:
    """Each with a comma before it."""
    return sql.Composed([sql.SQL(", {}").format(item) for item in items])


def _key_names(key: Sequence[str]) -> list[sql.Identifier]:
    """Names for the key's columns in our subqueries, where no name of the table's own is visible."""
    return [sql.Identifier(f"k{position}") for position in range(len(key))]
