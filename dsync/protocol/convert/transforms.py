"""What a transform is asked and what it answers."""

from __future__ import annotations

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol.convert.values import (
    data_type_from_pb,
    data_type_to_pb,
    data_types_from_pb,
    data_types_to_pb,
    update_from_pb,
    update_to_pb,
)


def transform_capabilities_to_pb(capabilities: t.TransformCapabilities) -> adiom.GetTransformInfoResponse:
    return adiom.GetTransformInfoResponse(
        transforms=[
            adiom.GetTransformInfoResponse.TransformInfo(
                request_type=data_type_to_pb(info.request_type),
                response_types=data_types_to_pb(info.response_types),
            )
            for info in capabilities.transforms
        ],
        use_multiple_responses=capabilities.use_multiple_responses,
    )


def transform_capabilities_from_pb(message: adiom.GetTransformInfoResponse) -> t.TransformCapabilities:
    return t.TransformCapabilities(
        transforms=tuple(
            t.TransformInfo(
                request_type=data_type_from_pb(info.request_type),
                response_types=data_types_from_pb(info.response_types),
            )
            for info in message.transforms
        ),
        use_multiple_responses=message.use_multiple_responses,
    )


def transform_request_to_pb(request: t.TransformRequest) -> adiom.GetTransformRequest:
    return adiom.GetTransformRequest(
        namespace=request.namespace,
        updates=map(update_to_pb, request.updates),
        data=request.data,
        request_type=data_type_to_pb(request.request_type),
        response_type=data_type_to_pb(request.response_type),
    )


def transform_request_from_pb(message: adiom.GetTransformRequest) -> t.TransformRequest:
    return t.TransformRequest(
        namespace=message.namespace,
        request_type=data_type_from_pb(message.request_type),
        response_type=data_type_from_pb(message.response_type),
        updates=tuple(map(update_from_pb, message.updates)),
        data=tuple(message.data),
    )


def transform_response_to_pb(response: t.TransformResponse, *, multiple: bool) -> adiom.GetTransformResponse:
    """In `responses` where the transform has declared that it answers for several namespaces.

    Raises:
        ValueError: several outputs, or none, of a transform that has declared one.
    """
    if multiple:
        return adiom.GetTransformResponse(responses=map(_output_to_pb, response.outputs))
    (output,) = response.outputs
    return adiom.GetTransformResponse(
        namespace=output.namespace, updates=map(update_to_pb, output.updates), data=output.data
    )


def transform_response_from_pb(message: adiom.GetTransformResponse, *, multiple: bool) -> t.TransformResponse:
    if multiple:
        return t.TransformResponse(outputs=tuple(map(_output_from_pb, message.responses)))
    output = t.TransformOutput(
        namespace=message.namespace,
        updates=tuple(map(update_from_pb, message.updates)),
        data=tuple(message.data),
    )
    return t.TransformResponse(outputs=(output,))


def _output_to_pb(output: t.TransformOutput) -> adiom.TransformResponse:
    return adiom.TransformResponse(
        namespace=output.namespace, updates=map(update_to_pb, output.updates), data=output.data
    )


def _output_from_pb(message: adiom.TransformResponse) -> t.TransformOutput:
    return t.TransformOutput(
        namespace=message.namespace,
        updates=tuple(map(update_from_pb, message.updates)),
        data=tuple(message.data),
    )
