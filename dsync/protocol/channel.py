"""Where a plug-in is reached, and the gRPC channel to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from grpc import aio

MIB = 1024 * 1024
MAX_MESSAGE_BYTES = 64 * MIB
"""What our ends take and send at the most."""
UNDECLARED_MESSAGE_BYTES = 4 * MIB
"""What a peer takes that declares nothing: the default of every gRPC library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The PEM texts of a TLS connection."""

    ca: bytes | None = None
    """Who may have signed the server's certificate; None: the system's authorities."""
    certificate: bytes | None = None
    """Ours, for servers that ask for one; with `key`."""
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One plug-in's address."""

    address: str
    """As gRPC writes it: `unix:/path` or `host:port`."""
    name: str
    """As a person knows it, for messages; without secrets."""
    tls: Tls | None = None
    """None: plaintext, which the caller has found permissible."""
    token: str = field(default="", repr=False)
    keepalive: bool = False
    """Ping the connection while calls are in flight, so that a dead one is noticed within 20 s. Only for peers that are
    known to bear it: other servers close a connection that pings more than once in five minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long calls may take."""

    contact_s: float = 10.0
    """Who are you: GetInfo, GetExtensions."""
    session_s: float = 60.0
    """OpenSession, which may have to end statements of an earlier life at the server."""
    data_s: float = 600.0
    """One page, one batch, one checksum."""
    work_s: float | None = None
    """Plans, schema work, index builds; None: as long as they take, while the connection is alive."""


def open_channel(target: Target) -> aio.Channel:
    """A channel that connects at the first call, and again after the peer was gone."""
    options: list[tuple[str, int]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # What we send is checked against the peer's limit before, with a message that names it.
        ("grpc.max_send_message_length", -1),
        # A repetition is the coordinator's decision, per class of error.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Channels to one address would share a connection, and with it the back-off of a peer that is gone.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _is_local(target.address):
        options.append(("grpc.enable_http_proxy", 0))
    if target.keepalive:
        options += [
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # The name of the one that counts; the other is what other versions of the library look at.
            ("grpc.http2.ping_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if target.tls is None:
        return aio.insecure_channel(target.address, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=target.tls.ca,
        private_key=target.tls.key,
        certificate_chain=target.tls.certificate,
    )
    return aio.secure_channel(target.address, credentials, options=options)


def _is_local(address: str) -> bool:
    return address.startswith(("unix:", "localhost:", "127.", "[::1]:"))
