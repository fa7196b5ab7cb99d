"""TLS, tokens, limits, health: how a connector is offered to other machines, and what it takes to get in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dsync.plugins.endpoint import RemoteEndpoint, parse_endpoint
from dsync.protocol import errors
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.types import Page, PageType, Partition, ReadRequest, SessionRequest, WriteRequest
from dsync.sdk.serve import ServeOptions, ServerTls, serve, serving
from dsync.sdk.testing.faults import Faults
from dsync.sdk.testing.memory import MemoryConnector
from tests.contract.certificates import Certificates, make_certificates
from tests.contract.rig import REGISTRY, document

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls(certificates: Certificates, *, client_ca: bool = False) -> ServerTls:
    return ServerTls(
        certificate=certificates.server.read_bytes(),
        key=certificates.server_key.read_bytes(),
        client_ca=certificates.ca.read_bytes() if client_ca else None,
    )


@asynccontextmanager
async def reached(reference: str) -> AsyncIterator[RemoteConnector]:
    """A connector by the reference that a user would write."""
    endpoint = parse_endpoint(reference, REGISTRY)
    assert isinstance(endpoint, RemoteEndpoint)
    connector = RemoteConnector(endpoint.target)
    try:
        yield connector
    finally:
        await connector.close()


# ----------------------------------------------------------------------- TLS


async def test_tls_with_the_right_authority(certificates: Certificates) -> None:
    """`grpcs://` with the authority that signed the server."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0", tls=tls(certificates))) as address,
        reached(f"grpcs://{address}?ca={certificates.ca}") as connector,
    ):
        assert (await connector.get_info()).db_type == "memory"
        # The second connection, with pings, is as encrypted as the first.
        assert (await connector.get_extensions()).services
        assert (await connector.get_info()).db_type == "memory"


async def test_tls_with_an_unknown_authority_is_refused(certificates: Certificates) -> None:
    """No certificate is taken on trust, and there is no way back to plaintext."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0", tls=tls(certificates))) as address,
        reached(f"grpcs://{address}?ca={certificates.stranger}") as wrong,
        reached(f"grpc://{address}") as plain,
    ):
        with pytest.raises(errors.ServerUnavailableError, match="GetInfo at grpcs://"):
            await wrong.get_info()
        with pytest.raises(errors.RetryableError):
            await plain.get_info()


async def test_a_client_certificate_opens_the_door(certificates: Certificates) -> None:
    """Where the server asks for one, one of its authority gets in; none, or a stranger's, does not."""
    options = ServeOptions(address="127.0.0.1:0", tls=tls(certificates, client_ca=True))
    async with serving(MemoryConnector(), options) as address:
        base = f"grpcs://{address}?ca={certificates.ca}"
        async with reached(f"{base}&cert={certificates.client}&key={certificates.client_key}") as known:
            assert (await known.get_info()).db_type == "memory"
        async with reached(base) as nobody:
            with pytest.raises(errors.RetryableError):
                await nobody.get_info()
        async with reached(f"{base}&cert={certificates.stranger}&key={certificates.stranger_key}") as stranger:
            with pytest.raises(errors.RetryableError):
                await stranger.get_info()


def test_plaintext_off_this_machine_has_to_be_allowed(certificates: Certificates) -> None:
    """Refused before anything is listened on; TLS, loopback and Unix sockets are fine."""
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:5000", "example.org:5000"):
        with pytest.raises(errors.RequestError, match="--allow-plaintext"):
            ServeOptions(address=address)
        ServeOptions(address=address, allow_plaintext=True)
        ServeOptions(address=address, tls=tls(certificates))
    for address in ("127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/run/x.sock"):
        ServeOptions(address=address)


def test_keys_and_tokens_stay_out_of_reprs(certificates: Certificates) -> None:
    """Options are logged at start."""
    options = ServeOptions(address="127.0.0.1:0", tls=tls(certificates), token="hunter22hunter22")
    assert "PRIVATE" not in repr(options)
    assert "hunter22" not in repr(options)
    assert "hunter22" not in repr(Target(address="a:1", name="a", token="hunter22"))


# --------------------------------------------------------------------- token


async def test_a_token_is_asked_for_by_every_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, reflection and health alike; the right one, given as a reference, gets in."""
    monkeypatch.setenv("DSYNC_TEST_TOKEN", "right-token")
    async with serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0", token="right-token")) as address:
        async with reached(f"grpc://{address}?token=env:DSYNC_TEST_TOKEN") as known:
            assert (await known.get_info()).db_type == "memory"
        for query in ("", "?token=wrong"):
            async with reached(f"grpc://{address}{query}") as unknown:
                with pytest.raises(errors.AuthenticationError, match="token"):
                    await unknown.get_info()
                with pytest.raises(errors.AuthenticationError):
                    await unknown.get_extensions()
        async with aio.insecure_channel(address) as channel:
            with pytest.raises(aio.AioRpcError, match="UNAUTHENTICATED"):
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            with pytest.raises(aio.AioRpcError, match="UNAUTHENTICATED"):
                async for _ in stub.ServerReflectionInfo(
                    iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                ):
                    pytest.fail("nothing was to be listed")


# -------------------------------------------------------------------- limits


async def test_a_page_over_the_agreed_limit_is_not_sent() -> None:
    """The peer has declared what it takes: the error names both sizes before a byte is moved."""
    options = ServeOptions(address="127.0.0.1:0", max_message_bytes=MIB)
    async with serving(MemoryConnector(), options) as address, reached(f"grpc://{address}") as connector:
        assert (await connector.get_extensions()).max_message_bytes == MIB
        page = Page(type=PageType.BSON, rows=1, packed=document(1, text="x" * 2 * MIB))
        with pytest.raises(errors.CapacityError, match=r"2,097,\d+ bytes does not fit a message of 1,048,576"):
            await connector.write_page(WriteRequest(namespace="a", page=page))


async def test_a_page_over_the_limit_of_its_sender_is_named() -> None:
    """A source that breaks the agreement is stopped by its own server; size and limit arrive."""
    memory = MemoryConnector(faults=Faults(["read_page@1:over-limit"]))
    memory.serve("a", 3000, record_bytes=1000)
    options = ServeOptions(address="127.0.0.1:0", max_message_bytes=2 * MIB)
    async with serving(memory, options) as address, reached(f"grpc://{address}") as connector:
        await connector.open_session(SessionRequest(max_message_bytes=2 * MIB, page_bytes=MIB))
        request = ReadRequest(partition=Partition(namespace="a", cursor=b":0:3000"))
        with pytest.raises(errors.CapacityError, match=r"2,98\d,\d+ bytes is over the limit of 2,097,152"):
            await connector.read_page(request)
        assert (await connector.read_page(request)).size_bytes <= MIB


async def test_pages_of_many_megabytes_pass() -> None:
    """gRPC's own default of 4 MiB is lifted at both ends."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0")) as address,
        reached(f"grpc://{address}") as connector,
    ):
        page = Page(type=PageType.BSON, rows=1, packed=document(1, text="x" * 50 * MIB))
        assert await connector.write_page(WriteRequest(namespace="a", page=page)) == 1
        request = ReadRequest(partition=Partition(namespace="a", cursor=b":0:1"))
        assert (await connector.read_page(request)).packed == page.packed


async def test_page_directories_of_callers_on_the_network_are_ignored(tmp_path: Path) -> None:
    """Whoever sits on another machine shares no file system with us and must not name folders of ours."""
    memory = MemoryConnector()
    async with (
        serving(memory, ServeOptions(address="127.0.0.1:0")) as address,
        reached(f"grpc://{address}") as connector,
    ):
        assert not (await connector.get_extensions()).page_refs
        request = SessionRequest(page_directory=str(tmp_path), page_probe="probe-" + "0" * 32)
        assert await connector.open_session(request) == b""
    assert memory.session == replace(request, page_directory="", page_probe="")


# --------------------------------------------------------------- life and end


async def test_health_says_serving() -> None:
    """For load balancers and supervisors, per service and for the whole."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0")) as address,
        aio.insecure_channel(address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "adiom.v1.ConnectorService", "dsync.v1.PageService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_port_that_is_taken_is_an_error() -> None:
    """Two servers on one port would each get some of the calls."""
    async with serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0")) as address:
        with pytest.raises(errors.ServerUnavailableError, match="cannot listen on"):
            async with serving(MemoryConnector(), ServeOptions(address=address)):
                pytest.fail("the port is taken")


async def test_a_stopping_server_lets_calls_end() -> None:
    """SIGTERM: what is in flight is answered, then the connector is closed, then the server is gone."""
    memory = MemoryConnector(faults=Faults(["count@1:hang"]))
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    options = ServeOptions(address="127.0.0.1:0", grace_s=0.3)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(memory, options, started=started))
        address = await started
        async with reached(f"grpc://{address}") as connector:
            hanging = tasks.create_task(outcome(connector))
            while not memory.faults.calls.get("count"):
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            # It never answers, so it is cut off when the time is over: an error worth a retry.
            assert isinstance(await hanging, errors.RetryableError)
    assert memory.faults.calls["close"] == 1


async def outcome(connector: RemoteConnector) -> errors.DsyncError:
    try:
        await connector.count("a")
    except errors.DsyncError as exc:
        return exc
    raise AssertionError("the call was to fail")


async def test_a_request_of_the_wrong_message_is_refused() -> None:
    """Bytes that are no request end in a status, not in a dead server."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0")) as address,
        aio.insecure_channel(address) as channel,
    ):
        call = channel.unary_unary("/adiom.v1.ConnectorService/ListData")
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
        assert caught.value.code() in (
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.INVALID_ARGUMENT,
        )
        info = channel.unary_unary("/adiom.v1.ConnectorService/GetInfo")
        assert b"memory" in await info(b"")
