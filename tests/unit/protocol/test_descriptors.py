"""adiom.v1 is a contract with programs that are not ours: each number, name and type is held here by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync

ROOT = Path(__file__).parents[3]

ENUMS = {
    "DataType": {"DATA_TYPE_UNKNOWN": 0, "DATA_TYPE_MONGO_BSON": 1, "DATA_TYPE_JSON_ID": 2},
    "UpdateType": {
        "UPDATE_TYPE_UNKNOWN": 0,
        "UPDATE_TYPE_INSERT": 1,
        "UPDATE_TYPE_UPDATE": 2,
        "UPDATE_TYPE_DELETE": 3,
        "UPDATE_TYPE_PARTIAL_UPDATE": 4,
    },
}

# One field a line: number, name, type; a star is "repeated", a capital a message or an enum.
MESSAGES = {
    "BsonValue": "1 data bytes, 2 type uint32, 3 name string",
    "Partition": (
        "1 namespace string, 2 partition_header string, 3 partition_value string, 4 cursor bytes,"
        " 5 estimated_count uint64"
    ),
    "UpdatesPartition": "1 namespaces string*, 2 partition_header string, 3 partition_value string, 4 cursor bytes",
    "Capabilities": "1 source Capabilities.Source, 2 sink Capabilities.Sink",
    "Capabilities.Source": (
        "1 supported_data_types DataType*, 2 lsn_stream bool, 3 multi_namespace_plan bool, 4 default_plan bool,"
        " 5 get_by_ids bool"
    ),
    "Capabilities.Sink": "1 supported_data_types DataType*",
    "GetInfoRequest": "",
    "GetInfoResponse": "1 id string, 2 db_type string, 3 version string, 4 spec string, 5 capabilities Capabilities",
    "GetNamespaceMetadataRequest": "1 namespace string",
    "GetNamespaceMetadataResponse": "1 count uint64",
    "GeneratePlanRequest": "1 namespaces string*, 2 initial_sync bool, 3 updates bool",
    "GeneratePlanResponse": "1 partitions Partition*, 2 updates_partitions UpdatesPartition*",
    "Update": "1 id BsonValue*, 2 type UpdateType, 3 data bytes, 4 partial_update_unset string*",
    "ListDataRequest": "1 partition Partition, 2 type DataType, 3 cursor bytes",
    "ListDataResponse": "1 data bytes*, 2 next_cursor bytes",
    "WriteDataRequest": "1 namespace string, 2 data bytes*, 3 type DataType",
    "WriteDataResponse": "",
    "WriteUpdatesRequest": "1 namespace string, 2 updates Update*, 3 type DataType",
    "WriteUpdatesResponse": "",
    "StreamUpdatesRequest": "1 namespaces string*, 2 type DataType, 3 cursor bytes",
    "StreamUpdatesResponse": (
        "1 updates Update*, 2 namespace string, 3 next_cursor bytes, 4 time google.protobuf.Timestamp"
    ),
    "StreamLSNRequest": "1 namespaces string*, 2 cursor bytes",
    "StreamLSNResponse": "1 lsn uint64, 2 next_cursor bytes",
    "GetByIdsRequest": "1 namespace string, 2 ids GetByIdsRequest.IdRequest*, 3 type DataType",
    "GetByIdsRequest.IdRequest": "1 id BsonValue*",
    "GetByIdsResponse": "1 data GetByIdsResponse.ResponseItem*",
    "GetByIdsResponse.ResponseItem": "1 data bytes",
    "GetTransformInfoRequest": "",
    "GetTransformInfoResponse": ("1 transforms GetTransformInfoResponse.TransformInfo*, 2 use_multiple_responses bool"),
    "GetTransformInfoResponse.TransformInfo": "1 request_type DataType, 2 response_types DataType*",
    "GetTransformRequest": (
        "1 namespace string, 2 updates Update*, 3 data bytes*, 4 request_type DataType, 5 response_type DataType"
    ),
    "TransformResponse": "1 namespace string, 2 updates Update*, 3 data bytes*",
    "GetTransformResponse": "1 namespace string, 2 updates Update*, 3 data bytes*, 4 responses TransformResponse*",
    "GetSupportedDataTypesRequest": "",
    "GetSupportedDataTypesResponse": "1 types DataType*",
    "GetChunkedRequest": "1 data bytes*, 2 type DataType",
    "Chunked": "1 data bytes*",
    "GetChunkedResponse": "1 data Chunked*",
    "GetEmbeddingRequest": "1 data bytes*, 2 type DataType",
    "Embedding": "1 data double*",
    "GetEmbeddingResponse": "1 data Embedding*",
}

# A star: the answers are a stream. No request is.
SERVICES = {
    "ConnectorService": (
        "GetInfo GetNamespaceMetadata WriteData WriteUpdates GeneratePlan ListData StreamUpdates* StreamLSN* GetByIds"
    ),
    "TransformService": "GetTransformInfo GetTransform",
    "ChunkingService": "GetSupportedDataTypes GetChunked",
    "EmbeddingService": "GetSupportedDataTypes GetEmbedding",
}

_SCALARS = {
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


def test_the_file_is_proto3_in_package_adiom_v1() -> None:
    """Open enums and no presence for scalars: what a proto3 peer assumes."""
    assert adiom.DESCRIPTOR.package == "adiom.v1"
    assert adiom.DESCRIPTOR.name == "adiom/v1/adiom.proto"
    assert all(not enum.is_closed for enum in adiom.DESCRIPTOR.enum_types_by_name.values())


def test_every_enum_has_its_names_and_numbers() -> None:
    """An enum value is a number on the wire and a name in JSON: neither may move."""
    compiled = {
        enum.name: {value.name: value.number for value in enum.values}
        for enum in adiom.DESCRIPTOR.enum_types_by_name.values()
    }
    assert compiled == ENUMS


def test_every_message_has_its_fields_and_no_others() -> None:
    """Field numbers, names, types and labels are those of the contract; ours go into dsync.v1."""
    assert {name: _fields(message) for name, message in _messages(adiom.DESCRIPTOR)} == MESSAGES


def test_every_service_has_its_methods() -> None:
    """Each method takes <Method>Request and returns <Method>Response; two of them stream."""
    compiled = {}
    for service in adiom.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert method.input_type.full_name == f"adiom.v1.{method.name}Request"
            assert method.output_type.full_name == f"adiom.v1.{method.name}Response"
            assert not method.client_streaming
        compiled[service.name] = " ".join(m.name + "*" * m.server_streaming for m in service.methods)
    assert compiled == SERVICES


def test_our_additions_stand_in_a_package_of_their_own() -> None:
    """dsync.v1 uses adiom.v1 and adds nothing to it."""
    assert dsync.DESCRIPTOR.package == "dsync.v1"
    used = [file.name for file in dsync.DESCRIPTOR.dependencies]
    assert used == ["adiom/v1/adiom.proto", "google/protobuf/timestamp.proto"]
    assert not adiom.DESCRIPTOR.extensions_by_name


def test_the_committed_stubs_are_what_the_sources_give() -> None:
    """`make generate` finds nothing to commit."""
    check = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate.py"), "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert (check.returncode, check.stderr) == (0, "")


def _messages(file: FileDescriptor) -> Iterable[tuple[str, Descriptor]]:
    def walk(message: Descriptor, prefix: str) -> Iterable[tuple[str, Descriptor]]:
        yield prefix + message.name, message
        for nested in message.nested_types:
            yield from walk(nested, f"{prefix}{message.name}.")

    for message in file.message_types_by_name.values():
        yield from walk(message, "")


def _fields(message: Descriptor) -> str:
    return ", ".join(
        f"{field.number} {field.name} {_type(field)}{'*' * field.is_repeated}"
        for field in sorted(message.fields, key=lambda field: field.number)
    )


def _type(field: FieldDescriptor) -> str:
    assert field.containing_oneof is None
    kind = field.message_type or field.enum_type
    return _SCALARS[field.type] if kind is None else kind.full_name.removeprefix("adiom.v1.")
