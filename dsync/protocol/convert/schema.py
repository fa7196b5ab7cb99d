"""Descriptions of namespaces and what a sink makes of them."""

from __future__ import annotations

from dsync.protocol import types as t
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert.values import (
    enum_from_pb,
    finding_from_pb,
    finding_to_pb,
    page_type_from_pb,
    page_type_to_pb,
    page_types_from_pb,
)


def _column_to_pb(column: t.Column) -> dsync.Column:
    return dsync.Column(
        name=column.name,
        type=column.type,
        not_null=column.not_null,
        generated=column.generated,
        key_position=column.key_position,
        page_types=map(page_type_to_pb, column.page_types),
        orders_everywhere=column.orders_everywhere,
        shape=column.shape,
    )


def _column_from_pb(message: dsync.Column) -> t.Column:
    return t.Column(
        name=message.name,
        type=message.type,
        not_null=message.not_null,
        generated=message.generated,
        key_position=message.key_position,
        page_types=page_types_from_pb(message.page_types),
        orders_everywhere=message.orders_everywhere,
        shape=message.shape,
    )


def _namespace_to_pb(namespace: t.NamespaceDescription) -> dsync.NamespaceDescription:
    return dsync.NamespaceDescription(
        namespace=namespace.namespace,
        columns=map(_column_to_pb, namespace.columns),
        estimated_rows=namespace.estimated_rows,
        size_bytes=namespace.size_bytes,
        rowless=namespace.rowless,
        parent=namespace.parent,
        placed_by_server=namespace.placed_by_server,
        kind=namespace.kind,
    )


def _namespace_from_pb(message: dsync.NamespaceDescription) -> t.NamespaceDescription:
    return t.NamespaceDescription(
        namespace=message.namespace,
        columns=tuple(map(_column_from_pb, message.columns)),
        estimated_rows=message.estimated_rows,
        size_bytes=message.size_bytes,
        rowless=message.rowless,
        parent=message.parent,
        placed_by_server=message.placed_by_server,
        kind=message.kind,
    )


def describe_to_pb(request: t.DescribeRequest) -> dsync.DescribeNamespacesRequest:
    return dsync.DescribeNamespacesRequest(
        namespaces=request.namespaces, definition_for=request.definition_for, peer_version=request.peer_version
    )


def describe_from_pb(message: dsync.DescribeNamespacesRequest) -> t.DescribeRequest:
    return t.DescribeRequest(
        namespaces=tuple(message.namespaces),
        definition_for=message.definition_for,
        peer_version=message.peer_version,
    )


def description_to_pb(description: t.SchemaDescription) -> dsync.DescribeNamespacesResponse:
    return dsync.DescribeNamespacesResponse(
        namespaces=map(_namespace_to_pb, description.namespaces),
        dialect=description.dialect,
        definition=description.definition,
        findings=map(finding_to_pb, description.findings),
    )


def description_from_pb(message: dsync.DescribeNamespacesResponse) -> t.SchemaDescription:
    return t.SchemaDescription(
        namespaces=tuple(map(_namespace_from_pb, message.namespaces)),
        dialect=message.dialect,
        definition=message.definition,
        findings=tuple(map(finding_from_pb, message.findings)),
    )


def prepare_to_pb(request: t.PrepareRequest) -> dsync.PrepareNamespacesRequest:
    return dsync.PrepareNamespacesRequest(
        flow=request.flow,
        run=request.run,
        mappings=[dsync.NamespaceMapping(source=m.source, target=m.target) for m in request.mappings],
        description=description_to_pb(request.description),
        whole_database=request.whole_database,
        create=request.create,
        on_existing=dsync.OnExisting.ValueType(int(request.on_existing)),
        no_owner=request.no_owner,
        no_privileges=request.no_privileges,
        allow_lossy=request.allow_lossy,
        dry_run=request.dry_run,
        page_types=map(page_type_to_pb, request.page_types),
    )


def prepare_from_pb(message: dsync.PrepareNamespacesRequest) -> t.PrepareRequest:
    return t.PrepareRequest(
        flow=message.flow,
        run=message.run,
        mappings=tuple(t.NamespaceMapping(source=m.source, target=m.target) for m in message.mappings),
        description=description_from_pb(message.description),
        whole_database=message.whole_database,
        create=message.create,
        on_existing=enum_from_pb(t.OnExisting, message.on_existing),
        no_owner=message.no_owner,
        no_privileges=message.no_privileges,
        allow_lossy=message.allow_lossy,
        dry_run=message.dry_run,
        page_types=page_types_from_pb(message.page_types),
    )


def prepared_to_pb(prepared: t.Prepared) -> dsync.PrepareNamespacesResponse:
    return dsync.PrepareNamespacesResponse(
        namespaces=map(_prepared_namespace_to_pb, prepared.namespaces),
        steps=map(step_to_pb, prepared.steps),
        ddl=prepared.ddl,
        findings=map(finding_to_pb, prepared.findings),
    )


def prepared_from_pb(message: dsync.PrepareNamespacesResponse) -> t.Prepared:
    return t.Prepared(
        namespaces=tuple(map(_prepared_namespace_from_pb, message.namespaces)),
        steps=tuple(map(step_from_pb, message.steps)),
        ddl=tuple(message.ddl),
        findings=tuple(map(finding_from_pb, message.findings)),
    )


def _prepared_namespace_to_pb(namespace: t.PreparedNamespace) -> dsync.PreparedNamespace:
    return dsync.PreparedNamespace(
        source=namespace.source,
        target=namespace.target,
        page_type=page_type_to_pb(namespace.page_type),
        columns=namespace.columns,
        upsert=namespace.upsert,
        existed=namespace.existed,
        anew=namespace.anew,
        reason=namespace.reason,
    )


def _prepared_namespace_from_pb(message: dsync.PreparedNamespace) -> t.PreparedNamespace:
    return t.PreparedNamespace(
        source=message.source,
        target=message.target,
        page_type=page_type_from_pb(message.page_type),
        columns=tuple(message.columns),
        upsert=message.upsert,
        existed=message.existed,
        anew=message.anew,
        reason=message.reason,
    )


def step_to_pb(step: t.FinishStep) -> dsync.FinishStep:
    return dsync.FinishStep(
        id=step.id,
        kind=step.kind,
        name=step.name,
        namespace=step.namespace,
        depends_on=step.depends_on,
        payload=step.payload,
        needs_source=step.needs_source,
        makes_key=step.makes_key,
    )


def step_from_pb(message: dsync.FinishStep) -> t.FinishStep:
    return t.FinishStep(
        id=message.id,
        kind=message.kind,
        name=message.name,
        namespace=message.namespace,
        depends_on=tuple(message.depends_on),
        payload=message.payload,
        needs_source=message.needs_source,
        makes_key=message.makes_key,
    )
