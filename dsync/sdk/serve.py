"""A gRPC server for one plug-in: health, reflection, TLS, token, message limits, graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dsync.protocol.channel import MAX_MESSAGE_BYTES
from dsync.protocol.errors import RequestError, ServerUnavailableError
from dsync.protocol.interceptors import ErrorInterceptor, TokenInterceptor
from dsync.protocol.interface import Connector, Transform
from dsync.protocol.servicer import add_connector, add_transform
from dsync.sdk import allocator

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The PEM texts of a server that speaks TLS."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None
    """Where given, only clients with a certificate of this authority get in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a plug-in is offered."""

    address: str
    """`unix:/path` or `host:port`; port 0 takes a free one."""
    tls: ServerTls | None = None
    token: str = field(default="", repr=False)
    """Where given, every call carries `authorization: Bearer <token>`."""
    allow_plaintext: bool = False
    """Serve without TLS to other machines too."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    grace_s: float = 10.0
    """How long calls in flight may go on once the server is told to stop."""

    def __post_init__(self) -> None:
        if not self.is_unix and self.tls is None and not self.allow_plaintext and not _is_loopback(self.address):
            raise RequestError(
                f"serving on {self.address}: plaintext is for this machine alone; give --tls-cert and --tls-key,"
                " or --allow-plaintext in a network you trust"
            )

    @property
    def is_unix(self) -> bool:
        return self.address.startswith("unix:")


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def serving(plugin: Connector | Transform, options: ServeOptions) -> AsyncIterator[str]:
    """Serve inside the block; gives the address with the port that was taken. The plug-in stays open.

    Raises:
        ServerUnavailableError: the address cannot be listened on.
    """
    server = _server(options)
    if isinstance(plugin, Connector):
        services = add_connector(server, plugin, page_refs=options.is_unix, max_message_bytes=options.max_message_bytes)
    else:
        services = add_transform(server, plugin)
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = _listen(server, options)
    await server.start()
    for service in ("", *services):
        await healths.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield address
    finally:
        await healths.enter_graceful_shutdown()
        await server.stop(options.grace_s)


def _server(options: ServeOptions) -> aio.Server:
    token = [TokenInterceptor(options.token)] if options.token else []
    return aio.server(
        interceptors=[*token, ErrorInterceptor()],
        options=[
            ("grpc.max_receive_message_length", options.max_message_bytes),
            ("grpc.max_send_message_length", options.max_message_bytes),
            # Two servers on one port would each get some of the calls; the second is to fail instead.
            ("grpc.so_reuseport", 0),
            # Our clients ping every 10 s while calls run; the default closes connections that do.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            # A client whose machine is gone holds its calls no longer than this.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.ping_timeout_ms", 20_000),
        ],
    )


def _listen(server: aio.Server, options: ServeOptions) -> str:
    try:
        if options.tls is None:
            port = server.add_insecure_port(options.address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(options.tls.key, options.tls.certificate)],
                root_certificates=options.tls.client_ca,
                require_client_auth=options.tls.client_ca is not None,
            )
            port = server.add_secure_port(options.address, credentials)
    except RuntimeError as exc:
        raise ServerUnavailableError(
            f"cannot listen on {options.address}: is the address of this machine and the port free?"
        ) from exc
    return options.address if options.is_unix else f"{options.address.rpartition(':')[0]}:{port}"


async def serve(
    plugin: Connector | Transform, options: ServeOptions, *, started: asyncio.Future[str] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, let calls in flight end, then close the plug-in.

    `started` gets the address once calls are answered.
    """
    allocator.tune()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with serving(plugin, options) as address:
            _log.info("plugin_serving", address=address, plugin=type(plugin).__name__)
            if started is not None:
                started.set_result(address)
            await stop.wait()
            _log.info("plugin_stopping", address=address)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.grace_s):
                await plugin.close()
