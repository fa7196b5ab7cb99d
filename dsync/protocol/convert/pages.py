"""Pages and changes: what moves data.

adiom.v1 carries a page as a list of records, dsync.v1 as one packed body or a reference to a file. Here only the
envelope is converted; splitting and joining bodies is the business of `dsync.protocol.pages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert.values import (
    bson_value_from_pb,
    bson_value_to_pb,
    data_type_from_pb,
    data_type_to_pb,
    page_type_from_pb,
    page_type_to_pb,
    partition_from_pb,
    partition_to_pb,
    update_from_pb,
    update_to_pb,
)


def list_data_to_pb(request: t.ReadRequest) -> adiom.ListDataRequest:
    return adiom.ListDataRequest(
        partition=partition_to_pb(request.partition), type=data_type_to_pb(request.type), cursor=request.cursor
    )


def list_data_from_pb(message: adiom.ListDataRequest) -> t.ReadRequest:
    return t.ReadRequest(
        partition=partition_from_pb(message.partition), type=data_type_from_pb(message.type), cursor=message.cursor
    )


def records_to_pb(records: Sequence[bytes], next_cursor: bytes) -> adiom.ListDataResponse:
    return adiom.ListDataResponse(data=records, next_cursor=next_cursor)


def records_from_pb(message: adiom.ListDataResponse, page_type: t.PageType) -> t.Page:
    # The repeated field is handed on as it is: a list of a page's 40,000 records costs more than the page.
    return t.Page(type=page_type, rows=len(message.data), records=message.data, next_cursor=message.next_cursor)


def read_page_to_pb(request: t.ReadRequest) -> dsync.ReadPageRequest:
    return dsync.ReadPageRequest(
        partition=partition_to_pb(request.partition),
        type=page_type_to_pb(request.type),
        cursor=request.cursor,
        columns=request.columns,
        by_reference=request.by_reference,
        page_bytes=request.page_bytes,
    )


def read_page_from_pb(message: dsync.ReadPageRequest) -> t.ReadRequest:
    return t.ReadRequest(
        partition=partition_from_pb(message.partition),
        type=page_type_from_pb(message.type),
        cursor=message.cursor,
        columns=tuple(message.columns),
        by_reference=message.by_reference,
        page_bytes=message.page_bytes,
    )


def page_head_to_pb(page: t.Page) -> dsync.ReadPageResponse:
    """A page without its packed body, which `dsync.protocol.page_codec` appends."""
    return dsync.ReadPageResponse(
        ref=ref_to_pb(page.ref) if page.ref else None,
        rows=page.rows,
        next_cursor=page.next_cursor,
        type=page_type_to_pb(page.type),
    )


def page_from_head(message: dsync.ReadPageResponse, body: t.Buffer) -> t.Page:
    """The page with the body that was found beside its head; a reference goes before a body."""
    ref = ref_from_pb(message.ref) if message.HasField("ref") else None
    return t.Page(
        type=page_type_from_pb(message.type),
        rows=message.rows,
        next_cursor=message.next_cursor,
        packed=body if ref is None else None,
        ref=ref,
    )


def ref_to_pb(ref: t.PageRef) -> dsync.PageRef:
    return dsync.PageRef(name=ref.name, size_bytes=ref.size_bytes)


def ref_from_pb(message: dsync.PageRef) -> t.PageRef:
    return t.PageRef(name=message.name, size_bytes=message.size_bytes)


def write_page_head_to_pb(request: t.WriteRequest) -> dsync.WritePageRequest:
    """A page to write without its packed body."""
    page = request.page
    return dsync.WritePageRequest(
        namespace=request.namespace,
        type=page_type_to_pb(page.type),
        ref=ref_to_pb(page.ref) if page.ref else None,
        rows=page.rows,
        columns=request.columns,
        context=context_to_pb(request.context) if request.context else None,
        upsert=request.upsert,
        insert_only=request.insert_only,
    )


def write_page_from_head(message: dsync.WritePageRequest, body: t.Buffer) -> t.WriteRequest:
    ref = ref_from_pb(message.ref) if message.HasField("ref") else None
    page = t.Page(
        type=page_type_from_pb(message.type), rows=message.rows, packed=body if ref is None else None, ref=ref
    )
    return t.WriteRequest(
        namespace=message.namespace,
        page=page,
        columns=tuple(message.columns),
        context=context_from_pb(message.context) if message.HasField("context") else None,
        upsert=message.upsert,
        insert_only=message.insert_only,
    )


def context_to_pb(context: t.WriteContext) -> dsync.WriteContext:
    return dsync.WriteContext(
        flow=context.flow,
        run=context.run,
        unit=context.unit,
        fence=context.fence,
        cursor=context.cursor,
        seq=context.seq,
        done=context.done,
    )


def context_from_pb(message: dsync.WriteContext) -> t.WriteContext:
    return t.WriteContext(
        flow=message.flow,
        run=message.run,
        unit=message.unit,
        fence=message.fence,
        cursor=message.cursor,
        seq=message.seq,
        done=message.done,
    )


def write_data_to_pb(namespace: str, records: Sequence[bytes], page_type: t.PageType) -> adiom.WriteDataRequest:
    return adiom.WriteDataRequest(namespace=namespace, data=records, type=data_type_to_pb(page_type))


def write_data_from_pb(message: adiom.WriteDataRequest) -> t.WriteRequest:
    page = t.Page(type=data_type_from_pb(message.type), rows=len(message.data), records=message.data)
    return t.WriteRequest(namespace=message.namespace, page=page)


def write_updates_to_pb(request: t.WriteUpdatesRequest) -> adiom.WriteUpdatesRequest:
    return adiom.WriteUpdatesRequest(
        namespace=request.namespace,
        updates=map(update_to_pb, request.updates),
        type=data_type_to_pb(request.type),
    )


def write_updates_from_pb(message: adiom.WriteUpdatesRequest) -> t.WriteUpdatesRequest:
    return t.WriteUpdatesRequest(
        namespace=message.namespace,
        updates=tuple(map(update_from_pb, message.updates)),
        type=data_type_from_pb(message.type),
    )


def stream_updates_to_pb(request: t.StreamRequest) -> adiom.StreamUpdatesRequest:
    return adiom.StreamUpdatesRequest(
        namespaces=request.namespaces, type=data_type_to_pb(request.type), cursor=request.cursor
    )


def stream_updates_from_pb(message: adiom.StreamUpdatesRequest) -> t.StreamRequest:
    return t.StreamRequest(
        namespaces=tuple(message.namespaces), type=data_type_from_pb(message.type), cursor=message.cursor
    )


def update_batch_to_pb(batch: t.UpdateBatch) -> adiom.StreamUpdatesResponse:
    return adiom.StreamUpdatesResponse(
        updates=map(update_to_pb, batch.updates),
        namespace=batch.namespace,
        next_cursor=batch.next_cursor,
        time=time_to_pb(batch.time),
    )


def update_batch_from_pb(message: adiom.StreamUpdatesResponse) -> t.UpdateBatch:
    return t.UpdateBatch(
        updates=tuple(map(update_from_pb, message.updates)),
        namespace=message.namespace,
        next_cursor=message.next_cursor,
        time=time_from_pb(message.time) if message.HasField("time") else None,
    )


def time_to_pb(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def time_from_pb(message: Timestamp) -> datetime | None:
    """The commit time to a microsecond; None where a peer sends one outside the years 1 to 9999."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def stream_lsn_to_pb(request: t.StreamRequest) -> adiom.StreamLSNRequest:
    return adiom.StreamLSNRequest(namespaces=request.namespaces, cursor=request.cursor)


def stream_lsn_from_pb(message: adiom.StreamLSNRequest) -> t.StreamRequest:
    return t.StreamRequest(namespaces=tuple(message.namespaces), cursor=message.cursor)


def lsn_to_pb(position: t.LsnPosition) -> adiom.StreamLSNResponse:
    return adiom.StreamLSNResponse(lsn=position.lsn, next_cursor=position.next_cursor)


def lsn_from_pb(message: adiom.StreamLSNResponse) -> t.LsnPosition:
    return t.LsnPosition(lsn=message.lsn, next_cursor=message.next_cursor)


def get_by_ids_to_pb(
    namespace: str, ids: Sequence[tuple[t.BsonValue, ...]], page_type: t.PageType
) -> adiom.GetByIdsRequest:
    return adiom.GetByIdsRequest(
        namespace=namespace,
        ids=[adiom.GetByIdsRequest.IdRequest(id=map(bson_value_to_pb, values)) for values in ids],
        type=data_type_to_pb(page_type),
    )


def get_by_ids_from_pb(
    message: adiom.GetByIdsRequest,
) -> tuple[str, list[tuple[t.BsonValue, ...]], t.PageType]:
    ids = [tuple(map(bson_value_from_pb, item.id)) for item in message.ids]
    return message.namespace, ids, data_type_from_pb(message.type)


def found_to_pb(records: Sequence[bytes]) -> adiom.GetByIdsResponse:
    return adiom.GetByIdsResponse(data=[adiom.GetByIdsResponse.ResponseItem(data=record) for record in records])


def found_from_pb(message: adiom.GetByIdsResponse) -> list[bytes]:
    return [item.data for item in message.data]
