"""What a user writes for a source or a sink is understood, or refused with the way to write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.plugins.endpoint import Endpoint, PluginEndpoint, RemoteEndpoint, parse_endpoint
from dsync.plugins.registry import Registry
from dsync.protocol.errors import DsyncError, OptionError, RequestError

REGISTRY = Registry.installed(also=[("memory", "dsync.sdk.testing.memory_plugin:SPEC")])


def parse(reference: str, *, allow_plaintext: bool = False) -> Endpoint:
    return parse_endpoint(reference, REGISTRY, allow_plaintext=allow_plaintext)


def remote(reference: str, *, allow_plaintext: bool = False) -> RemoteEndpoint:
    endpoint = parse(reference, allow_plaintext=allow_plaintext)
    assert isinstance(endpoint, RemoteEndpoint)
    return endpoint


def test_a_uri_leads_to_its_connector() -> None:
    """The URI goes to the plug-in as it is, and is shown without its password."""
    endpoint = parse("MEMORY://u:hunter22@h/x?password=hunter22")
    assert isinstance(endpoint, PluginEndpoint)
    assert endpoint.entry.name == "memory"
    assert endpoint.reference == "MEMORY://u:hunter22@h/x?password=hunter22"
    assert endpoint.display == "MEMORY://u:***@h/x?password=***"
    assert "hunter22" not in repr(endpoint)


def test_a_reference_is_read_for_its_scheme_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which connector to start must be known here; the text stays where it was."""
    monkeypatch.setenv("DSYNC_SOURCE", "memory://u:hunter22@h")
    file = tmp_path / "uri"
    file.write_text("memory://u:hunter22@h\n")
    for reference in ("env:DSYNC_SOURCE", f"file:{file}"):
        endpoint = parse(reference)
        assert isinstance(endpoint, PluginEndpoint)
        assert (endpoint.reference, endpoint.display) == (reference, reference)
        assert "hunter22" not in repr(endpoint)


def test_a_grpc_address() -> None:
    """On this machine without more."""
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]"):
        endpoint = remote(f"grpc://{host}:5000")
        assert endpoint.target.address == f"{host}:5000"
        assert endpoint.target.tls is None


def test_plaintext_to_another_machine_has_to_be_allowed() -> None:
    """It would carry every row, and the token, for everyone on the way to read."""
    with pytest.raises(RequestError, match=r"use grpcs://, or --allow-plaintext"):
        parse("grpc://example.org:5000")
    assert remote("grpc://example.org:5000", allow_plaintext=True).target.address == "example.org:5000"
    assert remote("grpcs://example.org:5000").target.tls is not None


def test_the_parameters_of_a_tls_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read here, the token is resolved, and neither it nor the key is shown."""
    monkeypatch.setenv("DSYNC_TOKEN", "hunter22")
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"PEM {name}")
    query = "&".join(f"{name}={tmp_path}/{name}" for name in ("ca", "cert", "key"))
    endpoint = remote(f"grpcs://h:1?{query}&token=env:DSYNC_TOKEN")
    tls = endpoint.target.tls
    assert tls is not None
    assert (tls.ca, tls.certificate, tls.key) == (b"PEM ca", b"PEM cert", b"PEM key")
    assert endpoint.target.token == "hunter22"
    assert "hunter22" not in repr(endpoint)
    assert "PEM key" not in repr(endpoint)


@pytest.mark.parametrize(
    ("reference", "cls", "message"),
    [
        ("postgres", RequestError, r"write scheme://…, env:NAME or file:PATH; known schemes are .*memory"),
        ("", RequestError, "is no endpoint"),
        ("host:5432", RequestError, "is no endpoint"),
        ("mongodbb://h", RequestError, "no connector for mongodbb://"),
        ("env:DSYNC_NOT_SET", OptionError, "DSYNC_NOT_SET is not set"),
        ("file:/nonexistent", OptionError, "cannot read the file /nonexistent"),
        ("grpc://localhost", RequestError, "write grpc://HOST:PORT"),
        ("grpc://localhost:x", RequestError, "write grpc://HOST:PORT"),
        ("grpc://localhost:99999", RequestError, "write grpc://HOST:PORT"),
        ("grpc://u:p@localhost:1", RequestError, "write grpc://HOST:PORT"),
        ("grpc://localhost:1/path", RequestError, "write grpc://HOST:PORT"),
        ("grpc://localhost:1?ca=x", OptionError, "no parameter 'ca'; grpc:// has token"),
        ("grpcs://h:1?tokn=x", OptionError, "no parameter 'tokn'; grpcs:// has ca, cert, key, token"),
        ("grpcs://h:1?ca=/nonexistent", OptionError, "ca: cannot read the file /nonexistent"),
        ("grpcs://h:1?cert=/x", OptionError, "cert and key belong together"),
    ],
)
def test_what_is_wrong_is_named(reference: str, cls: type[DsyncError], message: str) -> None:
    """Exit code 2, before anything is started or contacted."""
    with pytest.raises(cls, match=message) as caught:
        parse(reference)
    assert caught.value.exit_code == 2


def complaint_about(reference: str) -> str:
    try:
        parse(reference)
    except RequestError as error:
        return str(error)
    return ""


@given(st.text(max_size=40).filter(lambda text: "://" not in text))
def test_what_is_no_endpoint_is_not_repeated(text: str) -> None:
    """It may be a password in the wrong place."""
    assert "hunter22" not in complaint_about("hunter22" + text)


def test_a_reference_to_a_reference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step, so that what is read is what was meant."""
    monkeypatch.setenv("DSYNC_SOURCE", "env:OTHER")
    with pytest.raises(RequestError, match="env:DSYNC_SOURCE is no endpoint"):
        parse("env:DSYNC_SOURCE")
