"""`dsync serve`: one connector for coordinators on other machines."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from dsync.plugins.endpoint import RemoteEndpoint, parse_endpoint
from dsync.plugins.hosting import host_connector
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import runtime_directory
from dsync.plugins.shared import share
from dsync.protocol.errors import OptionError, RequestError
from dsync.protocol.interface import Connector
from dsync.sdk.references import is_reference, resolve
from dsync.sdk.serve import ServeOptions, ServerTls, serve


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    uri: str
    listen: str
    """`host:port`; port 0 takes a free one."""
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    token: str = ""
    """`env:NAME` or `file:PATH`; empty: no token is asked for."""
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a coordinator needs to reach it."""

    connector: str
    address: str
    """As a URI: `grpcs://host:port`."""
    needs_token: bool
    needs_client_certificate: bool


async def serve_connector(request: ServeRequest, on_started: Callable[[Serving], None]) -> None:
    """Serve until SIGTERM or SIGINT; calls in flight end before it does. The server behind is not contacted here.

    Raises:
        RequestError: an option is wrong, or plaintext would leave this machine.
        ServerUnavailableError: the address cannot be listened on.
    """
    options = serve_options(request)
    endpoint = parse_endpoint(request.uri, Registry.installed())
    if isinstance(endpoint, RemoteEndpoint):
        raise RequestError(f"{endpoint.display} is served by somebody already: serve the database's own URI")
    spec = endpoint.entry.spec
    assert spec is not None, "an endpoint that parses has a usable connector"
    async with AsyncExitStack() as stack:
        runtime = stack.enter_context(runtime_directory())

        def make() -> Connector:
            # A directory for each: several flows may be served at a time.
            directory = Path(tempfile.mkdtemp(dir=runtime))
            return host_connector(
                spec, endpoint.reference, private_directory=directory, application_name="dsync serve"
            ).connector

        shared = share(make)
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        started.add_done_callback(lambda done: on_started(_serving(spec.name, done.result(), options)))
        await serve(shared, options, started=started)


def serve_options(request: ServeRequest) -> ServeOptions:
    """Read the certificates and the token."""
    if bool(request.tls_cert) != bool(request.tls_key):
        raise OptionError("--tls-cert and --tls-key belong together; give both or neither")
    if request.client_ca and not request.tls_cert:
        raise OptionError("--client-ca asks clients for certificates, which takes TLS: give --tls-cert and --tls-key")
    if request.token and not is_reference(request.token):
        raise OptionError("--token takes env:NAME or file:PATH, so that nobody reads it in the list of processes")
    tls = None
    if request.tls_cert:
        tls = ServerTls(
            certificate=_read("--tls-cert", request.tls_cert),
            key=_read("--tls-key", request.tls_key),
            client_ca=_read("--client-ca", request.client_ca) if request.client_ca else None,
        )
    token = resolve(request.token, what="--token") if request.token else ""
    if request.token and not token:
        raise OptionError(f"--token {request.token} is empty: then anybody would get in")
    host, colon, port = request.listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise OptionError(f"--listen {request.listen}: write HOST:PORT, as in 127.0.0.1:7000 or [::1]:7000")
    return ServeOptions(address=request.listen, tls=tls, token=token, allow_plaintext=request.allow_plaintext)


def _read(option: str, path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise OptionError(f"{option} {path}: cannot be read ({exc.strerror})") from exc


def _serving(connector: str, address: str, options: ServeOptions) -> Serving:
    return Serving(
        connector=connector,
        address=f"{'grpc' if options.tls is None else 'grpcs'}://{address}",
        needs_token=bool(options.token),
        needs_client_certificate=options.tls is not None and options.tls.client_ca is not None,
    )
