"""dsync.v1.ChecksumService: sums that narrow a difference down to rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from dsync.conformance.check import check
from dsync.conformance.needs import CHECKSUM_SERVICE, SCHEMA_SERVICE, SOURCE
from dsync.conformance.outcomes import SkippedError, expect
from dsync.conformance.subject import Subject
from dsync.protocol.types import ChecksumRequest, DescribeRequest, KeyRange, Role, RowsRequest

_SUMS = "dsync.v1 ChecksumService"
_BUCKETS = 4
_MOST_ROWS = 200_000
_SUM_MODULUS = 1 << 128


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summed:
    """A namespace that is small enough to be summed up."""

    namespace: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def request(
        self, *, buckets: int = _BUCKETS, only: tuple[int, ...] = (), range: KeyRange | None = None
    ) -> ChecksumRequest:
        return ChecksumRequest(
            namespace=self.namespace,
            columns=self.columns,
            key=self.key,
            range=range or KeyRange(),
            buckets=buckets,
            only_buckets=only,
        )


@check("checksum.counts", SOURCE, SCHEMA_SERVICE, CHECKSUM_SERVICE, stands_on=f"{_SUMS}: CountRows, GetChecksum")
async def counts_alike(subject: Subject) -> None:
    """The number of rows is the sum of all buckets' counts, however many buckets there are.

    Both ends are compared by these numbers; one that is made in another way differs where nothing does.
    """
    async for summed in _each(subject):
        rows = await subject.connector.count_rows(summed.namespace)
        for buckets in (1, _BUCKETS):
            found = await subject.connector.get_checksum(summed.request(buckets=buckets))
            counted = sum(bucket.count for bucket in found)
            expect(
                counted == rows,
                expected=f"{summed.namespace}: {rows} rows in {buckets} buckets, as CountRows says",
                seen=str(counted),
            )


@check("checksum.same", SOURCE, SCHEMA_SERVICE, CHECKSUM_SERVICE, stands_on=f"{_SUMS}.GetChecksum")
async def sums_alike(subject: Subject) -> None:
    """Asked twice, the sums are the same, and that of one bucket is the total of four.

    They are compared with another server's, some time later, cut in another way.
    """
    async for summed in _each(subject):
        first = await subject.connector.get_checksum(summed.request())
        again = await subject.connector.get_checksum(summed.request())
        expect(
            sorted(first, key=lambda one: one.bucket) == sorted(again, key=lambda one: one.bucket),
            expected=f"{summed.namespace}: the same sums twice",
            seen="others",
        )
        whole = await subject.connector.get_checksum(summed.request(buckets=1))
        totals = [sum(bucket.sum for bucket in found) % _SUM_MODULUS for found in (first, whole)]
        expect(
            totals[0] == totals[1],
            expected=f"{summed.namespace}: one total, in 4 buckets and in 1",
            seen="two",
        )


@check("checksum.rows", SOURCE, SCHEMA_SERVICE, CHECKSUM_SERVICE, stands_on=f"{_SUMS}: GetRowHashes, GetRows")
async def narrows_down(subject: Subject) -> None:
    """The hashes of a bucket's rows add up to its sum, and rows are found by the keys that came with them.

    A difference is narrowed down in this way, from a table to a bucket and to its rows.
    """
    async for summed in _each(subject):
        for bucket in await subject.connector.get_checksum(summed.request()):
            if not bucket.count:
                continue
            hashes = subject.connector.get_row_hashes(summed.request(only=(bucket.bucket,)))
            rows = [row async for batch in hashes for row in batch]
            total = sum(int.from_bytes(row.hash, "big") * row.count for row in rows) % _SUM_MODULUS
            expect(
                (sum(row.count for row in rows), total) == (bucket.count, bucket.sum),
                expected=f"{summed.namespace}: {bucket.count} hashes that add up to the sum of bucket {bucket.bucket}",
                seen=f"{len(rows)} with another sum" if len(rows) == bucket.count else f"{len(rows)} hashes",
            )
            if not summed.key:
                continue
            asked = tuple(row.key for row in rows[:3])
            found = await subject.connector.get_rows(
                RowsRequest(namespace=summed.namespace, columns=summed.columns, key=summed.key, keys=asked)
            )
            keys = {row[: len(summed.key)] for row in found}
            expect(
                keys == set(asked),
                expected=f"{summed.namespace}: the {len(asked)} rows that were asked for",
                seen=f"{len(keys & set(asked))} of them, {len(found)} rows in all",
            )


@check("checksum.ranges", SOURCE, SCHEMA_SERVICE, CHECKSUM_SERVICE, stands_on=f"{_SUMS}.PlanRanges")
async def cuts_without_gaps(subject: Subject) -> None:
    """A namespace is cut into key ranges: together they have every row, once.

    A row between two ranges is never compared; one in two of them differs for nothing.
    """
    async for summed in _each(subject):
        if not summed.key:
            continue
        rows = await subject.connector.count_rows(summed.namespace)
        ranges = await subject.connector.plan_ranges(summed.namespace, summed.key, max(1, rows // 3))
        counted = 0
        for one in ranges:
            found = await subject.connector.get_checksum(summed.request(buckets=1, range=one))
            counted += sum(bucket.count for bucket in found)
        expect(
            counted == rows,
            expected=f"{summed.namespace}: {rows} rows in {len(ranges)} ranges",
            seen=str(counted),
        )


async def _each(subject: Subject) -> AsyncIterator[_Summed]:
    """Namespaces that are read and have not too many rows.

    Raises:
        SkippedError: there are none.
    """
    await subject.open_session(Role.SOURCE)
    names = await subject.namespaces()
    described = await subject.connector.describe(DescribeRequest(namespaces=names))
    if subject.serves("PlanService"):
        # An earlier plan's snapshot would be what is summed up.
        await subject.connector.close_plan(subject.flow)
    found = False
    for item in described.namespaces:
        if item.namespace in names and not item.rowless and item.estimated_rows <= _MOST_ROWS:
            found = True
            columns = tuple(column.name for column in item.columns if not column.generated)
            yield _Summed(namespace=item.namespace, columns=columns, key=item.key)
    if not found:
        raise SkippedError(f"every namespace has more than {_MOST_ROWS:,} rows")
