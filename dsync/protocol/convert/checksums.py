"""Key ranges, checksums and rows as text: what verification asks for."""

from __future__ import annotations

from collections.abc import Sequence

from dsync.protocol import types as t
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync

_SUM_BYTES = 16


def range_to_pb(key_range: t.KeyRange) -> dsync.KeyRange:
    return dsync.KeyRange(lower=key_range.lower, upper=key_range.upper)


def range_from_pb(message: dsync.KeyRange) -> t.KeyRange:
    return t.KeyRange(lower=tuple(message.lower), upper=tuple(message.upper))


def checksum_request_to_pb(request: t.ChecksumRequest) -> dsync.GetChecksumRequest:
    return dsync.GetChecksumRequest(
        namespace=request.namespace,
        columns=request.columns,
        key=request.key,
        range=range_to_pb(request.range),
        buckets=request.buckets,
        only_buckets=request.only_buckets,
        algorithm=request.algorithm,
    )


def checksum_request_from_pb(message: dsync.GetChecksumRequest) -> t.ChecksumRequest:
    return t.ChecksumRequest(
        namespace=message.namespace,
        columns=tuple(message.columns),
        key=tuple(message.key),
        range=range_from_pb(message.range),
        buckets=message.buckets,
        only_buckets=tuple(message.only_buckets),
        algorithm=message.algorithm,
    )


def buckets_to_pb(buckets: Sequence[t.Bucket]) -> dsync.GetChecksumResponse:
    return dsync.GetChecksumResponse(
        buckets=[dsync.Bucket(bucket=b.bucket, count=b.count, sum=b.sum.to_bytes(_SUM_BYTES, "big")) for b in buckets]
    )


def buckets_from_pb(message: dsync.GetChecksumResponse) -> list[t.Bucket]:
    return [t.Bucket(bucket=b.bucket, count=b.count, sum=int.from_bytes(b.sum, "big")) for b in message.buckets]


def row_hashes_to_pb(rows: Sequence[t.RowHash]) -> dsync.GetRowHashesResponse:
    return dsync.GetRowHashesResponse(rows=[dsync.RowHash(key=row.key, hash=row.hash, count=row.count) for row in rows])


def row_hashes_from_pb(message: dsync.GetRowHashesResponse) -> list[t.RowHash]:
    return [t.RowHash(key=tuple(row.key), hash=row.hash, count=row.count) for row in message.rows]


def rows_request_to_pb(request: t.RowsRequest) -> dsync.GetRowsRequest:
    return dsync.GetRowsRequest(
        namespace=request.namespace,
        columns=request.columns,
        key=request.key,
        keys=[dsync.Key(values=values) for values in request.keys],
        changed_since=request.changed_since,
    )


def rows_request_from_pb(message: dsync.GetRowsRequest) -> t.RowsRequest:
    return t.RowsRequest(
        namespace=message.namespace,
        columns=tuple(message.columns),
        key=tuple(message.key),
        keys=tuple(tuple(key.values) for key in message.keys),
        changed_since=message.changed_since,
    )


def rows_to_pb(rows: Sequence[t.TextRow]) -> dsync.GetRowsResponse:
    return dsync.GetRowsResponse(
        rows=[dsync.TextRow(values=[dsync.TextValue(text=text) for text in row]) for row in rows]
    )


def rows_from_pb(message: dsync.GetRowsResponse) -> list[t.TextRow]:
    return [tuple(value.text if value.HasField("text") else None for value in row.values) for row in message.rows]
