"""Moving applications from a source to its sink: freezing, schemas side by side, sequences."""

from __future__ import annotations

from collections.abc import Iterable

from dsync.protocol import types as t
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync


def _session_to_pb(session: t.ConnectedSession) -> dsync.ConnectedSession:
    return dsync.ConnectedSession(
        id=session.id,
        user=session.user,
        application=session.application,
        state=session.state,
        open_s=session.open_s,
    )


def _session_from_pb(message: dsync.ConnectedSession) -> t.ConnectedSession:
    return t.ConnectedSession(
        id=message.id,
        user=message.user,
        application=message.application,
        state=message.state,
        open_s=message.open_s if message.HasField("open_s") else None,
    )


def frozen_to_pb(frozen: t.Frozen) -> dsync.FreezeResponse:
    return dsync.FreezeResponse(
        token=frozen.token,
        undo=frozen.undo,
        ended=map(_session_to_pb, frozen.ended),
        left=map(_session_to_pb, frozen.left),
        exempt=frozen.exempt,
    )


def frozen_from_pb(message: dsync.FreezeResponse) -> t.Frozen:
    return t.Frozen(
        token=message.token,
        undo=message.undo,
        ended=tuple(map(_session_from_pb, message.ended)),
        left=tuple(map(_session_from_pb, message.left)),
        exempt=tuple(message.exempt),
    )


def objects_to_pb(objects: Iterable[t.SchemaObject]) -> dsync.DescribeObjectsResponse:
    return dsync.DescribeObjectsResponse(
        objects=[
            dsync.SchemaObject(kind=o.kind, namespace=o.namespace, name=o.name, definition=o.definition)
            for o in objects
        ]
    )


def objects_from_pb(message: dsync.DescribeObjectsResponse) -> list[t.SchemaObject]:
    return [
        t.SchemaObject(kind=o.kind, namespace=o.namespace, name=o.name, definition=o.definition)
        for o in message.objects
    ]


def sequences_to_pb(sequences: Iterable[t.SequenceState]) -> list[dsync.SequenceState]:
    return [
        dsync.SequenceState(
            name=s.name, namespace=s.namespace, column=s.column, last_value=s.last_value, is_called=s.is_called
        )
        for s in sequences
    ]


def sequences_from_pb(messages: Iterable[dsync.SequenceState]) -> list[t.SequenceState]:
    return [
        t.SequenceState(
            name=s.name, namespace=s.namespace, column=s.column, last_value=s.last_value, is_called=s.is_called
        )
        for s in messages
    ]
