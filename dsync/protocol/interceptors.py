"""What every call to a server of ours passes through: the token is checked, errors get their form on the wire."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc import aio

from dsync.protocol.errors import DsyncError
from dsync.protocol.errors_wire import WireError, to_wire, unexpected
from dsync.protocol.session import current_session, session_of

_Q = TypeVar("_Q")
_A = TypeVar("_A")

if TYPE_CHECKING:
    # Generic over two message types that no code here looks at; at run time grpc's class takes no parameters.
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]

_PACKAGES = ("/adiom.v1.", "/dsync.v1.")


class ErrorInterceptor(aio.ServerInterceptor):
    """Ends a failed call with the status, the text and the class of its error; tells the call its session."""

    async def intercept_service(self, continuation: _Continuation, details: grpc.HandlerCallDetails) -> _Handler | None:
        handler = await continuation(details)
        # None is a method that nobody serves: grpc answers UNIMPLEMENTED by itself.
        if handler is None or not details.method.startswith(_PACKAGES):
            return handler
        name = details.method.rpartition("/")[2]
        session = session_of(details.invocation_metadata)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _translating_stream(handler.unary_stream, name, session),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _translating(handler.unary_unary, name, session),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _translating(behaviour: Any, name: str, session: str) -> Any:
    async def call(request: _Q, context: aio.ServicerContext[Any, Any]) -> Any:
        current_session.set(session)
        try:
            return await behaviour(request, context)
        except DsyncError as exc:
            wire = to_wire(exc)
        except Exception as exc:  # noqa: BLE001 - whatever a plug-in raises has to reach the caller in some form
            wire = to_wire(unexpected(exc, name))
        return await _abort(context, wire)

    return call


def _translating_stream(behaviour: Any, name: str, session: str) -> Any:
    async def call(request: _Q, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        current_session.set(session)
        answers = behaviour(request, context)
        try:
            async for answer in answers:
                yield answer
            return
        except DsyncError as exc:
            wire = to_wire(exc)
        except Exception as exc:  # noqa: BLE001 - as above
            wire = to_wire(unexpected(exc, name))
        finally:
            await answers.aclose()
        await _abort(context, wire)

    return call


async def _abort(context: aio.ServicerContext[Any, Any], wire: WireError) -> None:
    await context.abort(wire.status, wire.details, trailing_metadata=wire.metadata)


class TokenInterceptor(aio.ServerInterceptor):
    """Refuses calls without `authorization: Bearer <token>`, health and reflection included."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(self, continuation: _Continuation, details: grpc.HandlerCallDetails) -> _Handler | None:
        handler = await continuation(details)
        if handler is None or self._is_authorised(details):
            return handler
        return _refusing(handler)

    def _is_authorised(self, details: grpc.HandlerCallDetails) -> bool:
        given = dict(details.invocation_metadata).get("authorization", "")
        # In constant time: how long a comparison takes must not tell how much of the token was right.
        return hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._expected)


def _refusing(handler: _Handler) -> _Handler:
    async def refuse(request: Any, context: aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong: give ?token=env:NAME")

    async def refuse_stream(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        await refuse(request, context)
        yield

    makers = {
        (False, False): (grpc.unary_unary_rpc_method_handler, refuse),
        (False, True): (grpc.unary_stream_rpc_method_handler, refuse_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, refuse),
        (True, True): (grpc.stream_stream_rpc_method_handler, refuse_stream),
    }
    make, behaviour = makers[handler.request_streaming, handler.response_streaming]
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
