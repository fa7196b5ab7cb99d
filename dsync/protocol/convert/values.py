"""Enums, single values, updates and partitions: what the other messages are made of."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TypeVar

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync

_E = TypeVar("_E", bound=enum.IntEnum)

# adiom.v1.DataType has these numbers and no others; the rest of PageType is for dsync.v1 alone.
_ADIOM_TYPES = frozenset({t.PageType.BSON, t.PageType.JSON})


def enum_from_pb(kind: type[_E], number: int) -> _E:
    """The member with this number; the one with number 0 where a newer peer sends one we do not know."""
    try:
        return kind(number)
    except ValueError:
        return kind(0)


def change_type_to_pb(change_type: t.ChangeType) -> dsync.ChangeType.ValueType:
    return dsync.ChangeType.ValueType(change_type)


def change_type_from_pb(number: int) -> t.ChangeType:
    return enum_from_pb(t.ChangeType, number)


def page_type_from_pb(number: int) -> t.PageType:
    return enum_from_pb(t.PageType, number)


def page_type_to_pb(page_type: t.PageType) -> dsync.PageType.ValueType:
    return dsync.PageType.ValueType(int(page_type))


def page_types_from_pb(numbers: Iterable[int]) -> tuple[t.PageType, ...]:
    """In the order given, without those we do not know."""
    known = (page_type_from_pb(number) for number in numbers)
    return tuple(page_type for page_type in known if page_type is not t.PageType.UNKNOWN)


def data_type_to_pb(page_type: t.PageType) -> adiom.DataType.ValueType:
    """As adiom.v1 knows it; a type of dsync.v1 becomes UNKNOWN, because no peer may take it for another."""
    return adiom.DataType.ValueType(int(page_type) if page_type in _ADIOM_TYPES else 0)


def data_type_from_pb(number: int) -> t.PageType:
    page_type = page_type_from_pb(number)
    return page_type if page_type in _ADIOM_TYPES else t.PageType.UNKNOWN


def data_types_to_pb(page_types: Iterable[t.PageType]) -> list[adiom.DataType.ValueType]:
    """Without those that adiom.v1 has no name for: a foreign coordinator never sees them."""
    return [data_type_to_pb(page_type) for page_type in page_types if page_type in _ADIOM_TYPES]


def data_types_from_pb(numbers: Iterable[int]) -> tuple[t.PageType, ...]:
    known = (data_type_from_pb(number) for number in numbers)
    return tuple(page_type for page_type in known if page_type is not t.PageType.UNKNOWN)


def bson_value_to_pb(value: t.BsonValue) -> adiom.BsonValue:
    return adiom.BsonValue(data=value.data, type=value.type, name=value.name)


def bson_value_from_pb(message: adiom.BsonValue) -> t.BsonValue:
    return t.BsonValue(data=message.data, type=message.type, name=message.name)


def update_to_pb(update: t.Update) -> adiom.Update:
    return adiom.Update(
        id=map(bson_value_to_pb, update.id),
        type=adiom.UpdateType.ValueType(int(update.type)),
        data=update.data,
        partial_update_unset=update.partial_update_unset,
    )


def update_from_pb(message: adiom.Update) -> t.Update:
    return t.Update(
        id=tuple(map(bson_value_from_pb, message.id)),
        type=enum_from_pb(t.UpdateType, message.type),
        data=message.data,
        partial_update_unset=tuple(message.partial_update_unset),
    )


def partition_to_pb(partition: t.Partition) -> adiom.Partition:
    return adiom.Partition(
        namespace=partition.namespace,
        partition_header=partition.header,
        partition_value=partition.value,
        cursor=partition.cursor,
        estimated_count=partition.estimated_count,
    )


def partition_from_pb(message: adiom.Partition) -> t.Partition:
    return t.Partition(
        namespace=message.namespace,
        header=message.partition_header,
        value=message.partition_value,
        cursor=message.cursor,
        estimated_count=message.estimated_count,
    )


def updates_partition_to_pb(partition: t.UpdatesPartition) -> adiom.UpdatesPartition:
    return adiom.UpdatesPartition(
        namespaces=partition.namespaces,
        partition_header=partition.header,
        partition_value=partition.value,
        cursor=partition.cursor,
    )


def updates_partition_from_pb(message: adiom.UpdatesPartition) -> t.UpdatesPartition:
    return t.UpdatesPartition(
        namespaces=tuple(message.namespaces),
        header=message.partition_header,
        value=message.partition_value,
        cursor=message.cursor,
    )


def finding_to_pb(finding: t.Finding) -> dsync.Finding:
    return dsync.Finding(
        code=finding.code,
        severity=dsync.Severity.ValueType(int(finding.severity)),
        object=finding.object,
        message=finding.message,
        remedy=finding.remedy,
    )


def finding_from_pb(message: dsync.Finding) -> t.Finding:
    return t.Finding(
        code=message.code,
        severity=enum_from_pb(t.Severity, message.severity),
        object=message.object,
        message=message.message,
        remedy=message.remedy,
    )
