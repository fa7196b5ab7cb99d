"""Change frames, and what is said about a stream of them: ChangeService.

Only the small fields are converted; a frame's body is appended and viewed where it lies (`dsync.protocol.page_codec`).
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from dsync.protocol import types as t
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert.pages import context_from_pb, context_to_pb, time_from_pb, time_to_pb
from dsync.protocol.convert.values import change_type_from_pb, change_type_to_pb


def stream_changes_to_pb(request: t.StreamChangesRequest) -> dsync.StreamChangesRequest:
    return dsync.StreamChangesRequest(
        namespaces=request.namespaces,
        type=change_type_to_pb(request.type),
        cursor=request.cursor,
        durable=request.durable,
        frame_bytes=request.frame_bytes,
    )


def stream_changes_from_pb(message: dsync.StreamChangesRequest) -> t.StreamChangesRequest:
    return t.StreamChangesRequest(
        namespaces=tuple(message.namespaces),
        type=change_type_from_pb(message.type),
        cursor=message.cursor,
        durable=message.durable if message.HasField("durable") else None,
        frame_bytes=message.frame_bytes,
    )


def frame_head_to_pb(frame: t.ChangeFrame) -> dsync.ChangeFrame:
    """A frame without its body."""
    return dsync.ChangeFrame(
        type=change_type_to_pb(frame.type),
        relations=map(_relation_to_pb, frame.relations),
        operations=frame.operations,
        relation_of=frame.relation_of,
        key_hashes=frame.key_hashes,
        moved_from=frame.moved_from,
        sizes=frame.sizes,
        commits=map(_commit_to_pb, frame.commits),
        cursor=frame.cursor,
        transaction=frame.transaction,
        index=frame.index,
        first_index=frame.first_index,
        time=time_to_pb(frame.time),
        position=frame.position,
    )


def frame_from_head(message: dsync.ChangeFrame, body: t.Buffer) -> t.ChangeFrame:
    """The frame with the body that was found beside its head. Raises DecodeError where its columns disagree."""
    count = len(message.operations)
    if (len(message.relation_of), len(message.key_hashes), len(message.sizes)) != (2 * count, 8 * count, 4 * count):
        raise DecodeError("the columns of a frame have not the same number of changes")
    if message.moved_from and len(message.moved_from) != 8 * message.operations.count(t.Operation.MOVE):
        raise DecodeError("a frame has not as many old keys as moves")
    return t.ChangeFrame(
        type=change_type_from_pb(message.type),
        relations=tuple(map(_relation_from_pb, message.relations)),
        operations=message.operations,
        relation_of=message.relation_of,
        key_hashes=message.key_hashes,
        moved_from=message.moved_from,
        sizes=message.sizes,
        body=body,
        commits=tuple(map(_commit_from_pb, message.commits)),
        cursor=message.cursor,
        transaction=message.transaction,
        index=message.index,
        first_index=message.first_index,
        time=time_from_pb(message.time) if message.HasField("time") else None,
        position=message.position,
    )


def write_changes_head_to_pb(request: t.WriteChangesRequest) -> dsync.WriteChangesRequest:
    """Changes to write without the frame's body."""
    return dsync.WriteChangesRequest(
        context=context_to_pb(request.context),
        frame=frame_head_to_pb(request.frame),
        targets=request.targets,
        overlap=request.overlap,
        in_order=request.in_order,
        also=map(context_to_pb, request.also),
    )


def write_changes_from_head(message: dsync.WriteChangesRequest, body: t.Buffer) -> t.WriteChangesRequest:
    return t.WriteChangesRequest(
        context=context_from_pb(message.context),
        frame=frame_from_head(message.frame, body),
        targets=tuple(message.targets),
        overlap=message.overlap,
        in_order=message.in_order,
        also=tuple(map(context_from_pb, message.also)),
    )


def written_to_pb(written: t.WrittenChanges) -> dsync.WriteChangesResponse:
    return dsync.WriteChangesResponse(
        changes=written.changes,
        incomplete=[dsync.IncompleteChange(index=item.index, reason=item.reason) for item in written.incomplete],
    )


def written_from_pb(message: dsync.WriteChangesResponse) -> t.WrittenChanges:
    return t.WrittenChanges(
        changes=message.changes,
        incomplete=tuple(t.IncompleteChange(index=item.index, reason=item.reason) for item in message.incomplete),
    )


def acknowledge_to_pb(namespaces: Sequence[str], cursor: bytes) -> dsync.AcknowledgeRequest:
    return dsync.AcknowledgeRequest(namespaces=namespaces, cursor=cursor)


def change_status_to_pb(status: t.ChangeStatus) -> dsync.GetChangeStatusResponse:
    return dsync.GetChangeStatusResponse(
        position=status.position,
        acknowledged=status.acknowledged,
        retained_bytes=status.retained_bytes,
        safe_bytes=status.safe_bytes,
        active=status.active,
        name=status.name,
        gone=status.gone,
    )


def change_status_from_pb(message: dsync.GetChangeStatusResponse) -> t.ChangeStatus:
    return t.ChangeStatus(
        position=message.position,
        acknowledged=message.acknowledged,
        retained_bytes=message.retained_bytes,
        safe_bytes=message.safe_bytes if message.HasField("safe_bytes") else None,
        active=message.active,
        name=message.name,
        gone=tuple(message.gone),
    )


def _relation_to_pb(relation: t.ChangeRelation) -> dsync.ChangeRelation:
    columns = [
        dsync.ChangeColumn(name=column.name, type=column.type, key_position=column.key_position)
        for column in relation.columns
    ]
    return dsync.ChangeRelation(
        namespace=relation.namespace,
        columns=columns,
        full_old_row=relation.full_old_row,
        details=relation.details,
    )


def _relation_from_pb(message: dsync.ChangeRelation) -> t.ChangeRelation:
    columns = tuple(
        t.ChangeColumn(name=column.name, type=column.type, key_position=column.key_position)
        for column in message.columns
    )
    return t.ChangeRelation(
        namespace=message.namespace,
        columns=columns,
        full_old_row=message.full_old_row,
        details=message.details,
    )


def _commit_to_pb(commit: t.ChangeCommit) -> dsync.ChangeCommit:
    return dsync.ChangeCommit(end=commit.end, transaction=commit.transaction, time=time_to_pb(commit.time))


def _commit_from_pb(message: dsync.ChangeCommit) -> t.ChangeCommit:
    return t.ChangeCommit(
        end=message.end,
        transaction=message.transaction,
        time=time_from_pb(message.time) if message.HasField("time") else None,
    )
