"""Who a plug-in is and what a session agrees on: GetInfo, GetExtensions, OpenSession, Check."""

from __future__ import annotations

from collections.abc import Iterable

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert.values import (
    change_type_from_pb,
    change_type_to_pb,
    data_types_from_pb,
    data_types_to_pb,
    enum_from_pb,
    page_type_to_pb,
    page_types_from_pb,
)

_PACKAGE = "dsync.v1."


def info_to_pb(info: t.Info) -> adiom.GetInfoResponse:
    return adiom.GetInfoResponse(
        id=info.id,
        db_type=info.db_type,
        version=info.version,
        spec=info.spec,
        capabilities=adiom.Capabilities(
            source=_source_to_pb(info.source) if info.source else None,
            sink=adiom.Capabilities.Sink(supported_data_types=data_types_to_pb(info.sink.data_types))
            if info.sink
            else None,
        ),
    )


def info_from_pb(message: adiom.GetInfoResponse) -> t.Info:
    capabilities = message.capabilities
    return t.Info(
        id=message.id,
        db_type=message.db_type,
        version=message.version,
        spec=message.spec,
        source=_source_from_pb(capabilities.source) if capabilities.HasField("source") else None,
        sink=t.SinkCapabilities(data_types=data_types_from_pb(capabilities.sink.supported_data_types))
        if capabilities.HasField("sink")
        else None,
    )


def _source_to_pb(source: t.SourceCapabilities) -> adiom.Capabilities.Source:
    return adiom.Capabilities.Source(
        supported_data_types=data_types_to_pb(source.data_types),
        lsn_stream=source.lsn_stream,
        multi_namespace_plan=source.multi_namespace_plan,
        default_plan=source.default_plan,
        get_by_ids=source.get_by_ids,
    )


def _source_from_pb(message: adiom.Capabilities.Source) -> t.SourceCapabilities:
    return t.SourceCapabilities(
        data_types=data_types_from_pb(message.supported_data_types),
        lsn_stream=message.lsn_stream,
        multi_namespace_plan=message.multi_namespace_plan,
        default_plan=message.default_plan,
        get_by_ids=message.get_by_ids,
    )


def extensions_to_pb(extensions: t.Extensions) -> dsync.GetExtensionsResponse:
    return dsync.GetExtensionsResponse(
        read_types=map(page_type_to_pb, extensions.read_types),
        write_types=map(page_type_to_pb, extensions.write_types),
        services=[_PACKAGE + name for name in sorted(extensions.services)],
        max_message_bytes=extensions.max_message_bytes,
        page_refs=extensions.page_refs,
        insert_only=extensions.insert_only,
        transactional=extensions.transactional,
        checksum_dialect=extensions.checksum_dialect,
        schema_dialect=extensions.schema_dialect,
        row_filters=extensions.row_filters,
        stream_types=map(change_type_to_pb, extensions.stream_types),
        change_types=map(change_type_to_pb, extensions.change_types),
    )


def extensions_from_pb(message: dsync.GetExtensionsResponse) -> t.Extensions:
    return t.Extensions(
        read_types=page_types_from_pb(message.read_types),
        write_types=page_types_from_pb(message.write_types),
        services=frozenset(name.removeprefix(_PACKAGE) for name in message.services),
        max_message_bytes=message.max_message_bytes,
        page_refs=message.page_refs,
        insert_only=message.insert_only,
        transactional=message.transactional,
        checksum_dialect=message.checksum_dialect,
        schema_dialect=message.schema_dialect,
        row_filters=message.row_filters,
        stream_types=_change_types(message.stream_types),
        change_types=_change_types(message.change_types),
    )


def _change_types(numbers: Iterable[int]) -> tuple[t.ChangeType, ...]:
    """Without those of a newer peer that nobody here knows."""
    known = (change_type_from_pb(number) for number in numbers)
    return tuple(item for item in known if item is not t.ChangeType.UNKNOWN)


def session_to_pb(request: t.SessionRequest) -> dsync.OpenSessionRequest:
    return dsync.OpenSessionRequest(
        flow=request.flow,
        run=request.run,
        role=dsync.Role.ValueType(int(request.role)),
        page_bytes=request.page_bytes,
        max_message_bytes=request.max_message_bytes,
        page_directory=request.page_directory,
        page_probe=request.page_probe,
        memory_bytes=request.memory_bytes,
        parallel=request.parallel,
        end_orphans=request.end_orphans,
        row_filters=dict(request.row_filters),
    )


def session_from_pb(message: dsync.OpenSessionRequest) -> t.SessionRequest:
    return t.SessionRequest(
        flow=message.flow,
        run=message.run,
        role=enum_from_pb(t.Role, message.role),
        page_bytes=message.page_bytes,
        max_message_bytes=message.max_message_bytes,
        page_directory=message.page_directory,
        page_probe=message.page_probe,
        memory_bytes=message.memory_bytes,
        parallel=message.parallel,
        end_orphans=message.end_orphans,
        row_filters=dict(message.row_filters),
    )


def check_to_pb(request: t.CheckRequest) -> dsync.CheckRequest:
    return dsync.CheckRequest(
        role=dsync.Role.ValueType(int(request.role)),
        namespaces=request.namespaces,
        peer_db_type=request.peer_db_type,
        peer_version=request.peer_version,
        updates=request.updates,
    )


def check_from_pb(message: dsync.CheckRequest) -> t.CheckRequest:
    return t.CheckRequest(
        role=enum_from_pb(t.Role, message.role),
        namespaces=tuple(message.namespaces),
        peer_db_type=message.peer_db_type,
        peer_version=message.peer_version,
        updates=message.updates,
    )
