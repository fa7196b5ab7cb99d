"""Batches of a stream as dsync.v1 has them: with truncates, schema changes and PostgreSQL's own rows."""

from __future__ import annotations

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert.pages import time_from_pb
from dsync.protocol.convert.schema import column_from_pb, column_to_pb
from dsync.protocol.convert.values import (
    bson_value_from_pb,
    bson_value_to_pb,
    enum_from_pb,
    page_type_from_pb,
    page_type_to_pb,
)


def request_to_pb(request: t.StreamRequest) -> dsync.StreamChangesRequest:
    return dsync.StreamChangesRequest(
        namespaces=request.namespaces, type=page_type_to_pb(request.type), cursor=request.cursor
    )


def request_from_pb(message: dsync.StreamChangesRequest) -> t.StreamRequest:
    return t.StreamRequest(
        namespaces=tuple(message.namespaces), type=page_type_from_pb(message.type), cursor=message.cursor
    )


def batch_to_pb(batch: t.UpdateBatch) -> dsync.ChangeBatch:
    message = dsync.ChangeBatch(
        kind=dsync.BatchKind.ValueType(int(batch.kind)),
        namespace=batch.namespace,
        changes=map(_change_to_pb, batch.updates),
        next_cursor=batch.next_cursor,
        columns=batch.columns,
        schema=map(column_to_pb, batch.schema),
        orders=batch.orders,
        ends_transaction=batch.ends_transaction,
        mark=batch.mark,
        position=batch.position,
    )
    if batch.time is not None:
        message.time.FromDatetime(batch.time)
    return message


def batch_from_pb(message: dsync.ChangeBatch) -> t.UpdateBatch:
    return t.UpdateBatch(
        kind=enum_from_pb(t.BatchKind, message.kind),
        namespace=message.namespace,
        updates=tuple(map(_change_from_pb, message.changes)),
        next_cursor=message.next_cursor,
        time=time_from_pb(message.time) if message.HasField("time") else None,
        columns=tuple(message.columns),
        schema=tuple(map(column_from_pb, message.schema)),
        orders=tuple(message.orders),
        ends_transaction=message.ends_transaction,
        mark=message.mark,
        position=message.position,
    )


def _change_to_pb(update: t.Update) -> dsync.Change:
    return dsync.Change(
        id=map(bson_value_to_pb, update.id),
        type=adiom.UpdateType.ValueType(int(update.type)),
        data=update.data,
        partial_update_unset=update.partial_update_unset,
        old_id=map(bson_value_to_pb, update.old_id),
    )


def _change_from_pb(message: dsync.Change) -> t.Update:
    return t.Update(
        id=tuple(map(bson_value_from_pb, message.id)),
        type=enum_from_pb(t.UpdateType, message.type),
        data=message.data,
        partial_update_unset=tuple(message.partial_update_unset),
        old_id=tuple(map(bson_value_from_pb, message.old_id)),
    )
