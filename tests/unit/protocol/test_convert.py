"""What is converted to a message, sent and converted back is what it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert import changes, checksums, cutover, flows, handshake, pages, schema, transforms, values
from tests.unit.protocol import strategies

Pair = tuple[type, Callable[[Any], Any], Callable[[Any], Any]]

PAIRS: list[Pair] = [
    (t.BsonValue, values.bson_value_to_pb, values.bson_value_from_pb),
    (t.Update, values.update_to_pb, values.update_from_pb),
    (t.Partition, values.partition_to_pb, values.partition_from_pb),
    (t.UpdatesPartition, values.updates_partition_to_pb, values.updates_partition_from_pb),
    (t.Finding, values.finding_to_pb, values.finding_from_pb),
    (t.Info, handshake.info_to_pb, handshake.info_from_pb),
    (t.Extensions, handshake.extensions_to_pb, handshake.extensions_from_pb),
    (t.SessionRequest, handshake.session_to_pb, handshake.session_from_pb),
    (t.CheckRequest, handshake.check_to_pb, handshake.check_from_pb),
    (t.ReadRequest, pages.read_page_to_pb, pages.read_page_from_pb),
    (t.PageRef, pages.ref_to_pb, pages.ref_from_pb),
    (t.WriteContext, pages.context_to_pb, pages.context_from_pb),
    (t.UpdateBatch, pages.update_batch_to_pb, pages.update_batch_from_pb),
    (t.LsnPosition, pages.lsn_to_pb, pages.lsn_from_pb),
    (t.StreamRequest, pages.stream_updates_to_pb, pages.stream_updates_from_pb),
    (t.StreamChangesRequest, changes.stream_changes_to_pb, changes.stream_changes_from_pb),
    (t.WrittenChanges, changes.written_to_pb, changes.written_from_pb),
    (t.ChangeStatus, changes.change_status_to_pb, changes.change_status_from_pb),
    (t.PlanRequest, flows.plan_request_to_pb, flows.plan_request_from_pb),
    (t.Plan, flows.opened_plan_to_pb, flows.opened_plan_from_pb),
    (t.JoinedPlan, flows.joined_plan_to_pb, flows.joined_plan_from_pb),
    (t.ResumedPlan, flows.resumed_plan_to_pb, flows.resumed_plan_from_pb),
    (t.FlowManifest, flows.manifest_to_pb, flows.manifest_from_pb),
    (t.DescribeRequest, schema.describe_to_pb, schema.describe_from_pb),
    (t.SchemaDescription, schema.description_to_pb, schema.description_from_pb),
    (t.PrepareRequest, schema.prepare_to_pb, schema.prepare_from_pb),
    (t.Prepared, schema.prepared_to_pb, schema.prepared_from_pb),
    (t.FinishStep, schema.step_to_pb, schema.step_from_pb),
    (t.KeyRange, checksums.range_to_pb, checksums.range_from_pb),
    (t.ChecksumRequest, checksums.checksum_request_to_pb, checksums.checksum_request_from_pb),
    (t.RowsRequest, checksums.rows_request_to_pb, checksums.rows_request_from_pb),
    (t.Frozen, cutover.frozen_to_pb, cutover.frozen_from_pb),
    (t.TransformCapabilities, transforms.transform_capabilities_to_pb, transforms.transform_capabilities_from_pb),
    (t.TransformRequest, transforms.transform_request_to_pb, transforms.transform_request_from_pb),
]


def _wire(message: Any) -> Any:
    """Through bytes and back, as a peer gets it."""
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_survives_the_wire(pair: Pair, data: st.DataObject) -> None:
    """Every field of every value arrives, whatever it holds."""
    cls, to_pb, from_pb = pair
    value = data.draw(strategies.values(cls))
    assert from_pb(_wire(to_pb(value))) == value


@settings(max_examples=40, deadline=None)
@given(request=strategies.values(t.WriteUpdatesRequest))
def test_changes_survive_the_wire(request: t.WriteUpdatesRequest) -> None:
    """The context of changes travels as metadata, not in adiom.v1's message."""
    arrived = pages.write_updates_from_pb(_wire(pages.write_updates_to_pb(request)))
    assert arrived == dataclasses.replace(request, context=None)


@settings(max_examples=40, deadline=None)
@given(
    partition=strategies.values(t.Partition),
    page_type=strategies.ADIOM_TYPES,
    cursor=strategies.BYTES,
    records=st.lists(strategies.BYTES),
)
def test_records_survive_the_wire(
    partition: t.Partition, page_type: t.PageType, cursor: bytes, records: list[bytes]
) -> None:
    """ListData and WriteData carry records one by one, in order, empty ones included."""
    asked = t.ReadRequest(partition=partition, type=page_type, cursor=cursor)
    assert pages.list_data_from_pb(_wire(pages.list_data_to_pb(asked))) == asked

    page = pages.records_from_pb(_wire(pages.records_to_pb(records, cursor)), page_type)
    assert (list(page.records or ()), page.rows, page.next_cursor) == (records, len(records), cursor)

    written = pages.write_data_from_pb(_wire(pages.write_data_to_pb("ns", records, page_type)))
    assert (written.namespace, list(written.page.records or ()), written.page.type) == ("ns", records, page_type)


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.lists(strategies.values(t.BsonValue), min_size=1, max_size=3).map(tuple), max_size=3),
    found=st.lists(strategies.BYTES),
)
def test_ids_and_what_they_find_keep_their_order(ids: list[tuple[t.BsonValue, ...]], found: list[bytes]) -> None:
    """The answer to GetByIds is matched with the question by position."""
    message = _wire(pages.get_by_ids_to_pb("ns", ids, t.PageType.BSON))
    assert pages.get_by_ids_from_pb(message) == ("ns", ids, t.PageType.BSON)
    assert pages.found_from_pb(_wire(pages.found_to_pb(found))) == found


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_lists_of_values_survive_the_wire(data: st.DataObject) -> None:
    """Requests and answers that are lists of values rather than a value."""

    def some(cls: type) -> list[Any]:
        return data.draw(st.lists(strategies.values(cls), max_size=3))

    units, states, copied = some(t.UnitRef), some(t.UnitState), some(t.CopiedPartition)
    followed = some(t.UpdatesPartition)
    assert flows.open_units_from_pb(_wire(flows.open_units_to_pb("f", "r", units))) == ("f", "r", units)
    assert flows.unit_states_from_pb(_wire(flows.unit_states_to_pb(states))) == states
    asked = flows.resume_plan_to_pb(b"s", copied, followed)
    assert flows.resume_plan_from_pb(_wire(asked)) == (b"s", copied, followed)

    buckets, hashes = some(t.Bucket), some(t.RowHash)
    assert checksums.buckets_from_pb(_wire(checksums.buckets_to_pb(buckets))) == buckets
    assert checksums.row_hashes_from_pb(_wire(checksums.row_hashes_to_pb(hashes))) == hashes
    rows = data.draw(st.lists(st.lists(st.none() | strategies.TEXT, max_size=3).map(tuple), max_size=3))
    assert checksums.rows_from_pb(_wire(checksums.rows_to_pb(rows))) == rows

    plan = t.Plan(partitions=tuple(some(t.Partition)), updates_partitions=tuple(followed))
    assert flows.plan_from_pb(_wire(flows.plan_to_pb(plan))) == plan


@settings(max_examples=40, deadline=None)
@given(outputs=st.lists(strategies.values(t.TransformOutput), max_size=3).map(tuple))
def test_a_transforms_answer_survives_the_wire(outputs: tuple[t.TransformOutput, ...]) -> None:
    """In `responses` where several namespaces were declared, else in the message itself."""
    several = t.TransformResponse(outputs=outputs)
    message = _wire(transforms.transform_response_to_pb(several, multiple=True))
    assert transforms.transform_response_from_pb(message, multiple=True) == several
    for output in outputs[:1]:
        single = t.TransformResponse(outputs=(output,))
        message = _wire(transforms.transform_response_to_pb(single, multiple=False))
        assert not message.responses
        assert transforms.transform_response_from_pb(message, multiple=False) == single


def test_an_unknown_enum_value_of_a_newer_peer_is_tolerated() -> None:
    """Alone it becomes UNKNOWN, in a list it is left out; nothing fails."""
    message = adiom.GetInfoResponse()
    message.capabilities.source.supported_data_types.extend([77, 1])
    info = handshake.info_from_pb(_wire(message))
    assert info.source is not None
    assert info.source.data_types == (t.PageType.BSON,)

    extensions = dsync.GetExtensionsResponse(read_types=[9999, 101], services=["dsync.v1.NewService"])
    assert handshake.extensions_from_pb(_wire(extensions)).read_types == (t.PageType.PG_COPY_BINARY,)
    assert values.update_from_pb(_wire(adiom.Update(type=42))).type is t.UpdateType.UNKNOWN
    assert values.finding_from_pb(_wire(dsync.Finding(severity=42))).severity is t.Severity.UNKNOWN


def test_an_unknown_field_of_a_newer_peer_is_tolerated() -> None:
    """Proto3's promise, which our conversions keep: what we do not know does not disturb what we do."""
    newer = adiom.Partition(namespace="a").SerializeToString() + b"\xfa\x7f\x03new"
    assert values.partition_from_pb(adiom.Partition.FromString(newer)) == t.Partition(namespace="a")


def test_fast_types_are_hidden_from_adiom_v1() -> None:
    """A coordinator that knows adiom.v1 alone must never see, and so never ask for, a COPY stream."""
    info = t.Info(
        id="x",
        db_type="postgres",
        source=t.SourceCapabilities(data_types=(t.PageType.PG_COPY_BINARY, t.PageType.BSON)),
    )
    assert list(handshake.info_to_pb(info).capabilities.source.supported_data_types) == [1]
    asked = t.ReadRequest(partition=t.Partition(namespace="a"), type=t.PageType.PG_COPY_BINARY)
    assert pages.list_data_to_pb(asked).type == adiom.DATA_TYPE_UNKNOWN


def test_a_time_that_python_cannot_hold_is_no_time() -> None:
    """A peer's broken clock costs the lag display, not the stream."""
    message = adiom.StreamUpdatesResponse(namespace="a")
    message.time.seconds = 2**60
    assert pages.update_batch_from_pb(_wire(message)).time is None
    message.time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    assert pages.update_batch_from_pb(_wire(message)).time == datetime(2026, 1, 2, tzinfo=UTC)


def test_a_secret_payload_stays_out_of_a_steps_repr() -> None:
    """A finish step's payload is SQL of the user's schema; logs print steps."""
    assert "SELECT" not in repr(t.FinishStep(id="1", kind="view", name="v", payload=b"SELECT 1"))


@settings(max_examples=40, deadline=None)
@given(
    objects=st.lists(strategies.values(t.SchemaObject), max_size=3),
    sequences=st.lists(strategies.values(t.SequenceState), max_size=3),
)
def test_schemas_and_sequences_survive_the_wire(
    objects: list[t.SchemaObject], sequences: list[t.SequenceState]
) -> None:
    assert cutover.objects_from_pb(_wire(cutover.objects_to_pb(objects))) == objects
    message = dsync.SetSequencesRequest(sequences=cutover.sequences_to_pb(sequences))
    assert cutover.sequences_from_pb(_wire(message).sequences) == sequences
