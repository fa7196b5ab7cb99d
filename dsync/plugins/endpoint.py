"""A reference to a source or a sink, as a user writes it, and what it leads to.

`postgresql://…` starts the connector of that scheme, `grpc://host:port` and `grpcs://host:port` reach one that
somebody runs. The whole may be `env:NAME` or `file:PATH`. Such a reference is read here too, but only to learn its
scheme: which connector to start has to be known before there is a process. The text itself is forgotten at once,
and the plug-in's process resolves the reference again.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dsync.plugins.registry import REMOTE_SCHEMES, Entry, Registry
from dsync.protocol.channel import Target, Tls
from dsync.protocol.errors import OptionError, RequestError
from dsync.sdk.redaction import redact_uri
from dsync.sdk.references import is_reference, resolve

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=//)")
_REMOTE_PARAMETERS = {"grpc": ("token",), "grpcs": ("ca", "cert", "key", "token")}


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEndpoint:
    """A connector to be started."""

    entry: Entry
    reference: str = field(repr=False)
    """The URI, `env:NAME` or `file:PATH`, as given."""
    display: str
    """The same without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEndpoint:
    """A connector that somebody else runs."""

    target: Target
    display: str


Endpoint = PluginEndpoint | RemoteEndpoint


def parse_endpoint(reference: str, registry: Registry, *, allow_plaintext: bool = False) -> Endpoint:
    """What a reference leads to; nothing is contacted.

    Raises:
        RequestError: it is no URI, its scheme is unknown, or it asks for plaintext to another machine.
        MissingObjectError: its connector needs something that is not installed.
        OptionError: a variable, a file or a parameter of a gRPC address is missing or unknown.
    """
    display = reference if is_reference(reference) else redact_uri(reference)
    uri = resolve(reference, what="an endpoint")
    match = _SCHEME.match(uri)
    if match is None:
        raise RequestError(
            f"{_shown(reference)} is no endpoint: write scheme://…, env:NAME or file:PATH;"
            f" known schemes are {', '.join(registry.schemes)}"
        )
    scheme = match[1].lower()
    if scheme in REMOTE_SCHEMES:
        return RemoteEndpoint(target=_remote(scheme, uri, display, allow_plaintext), display=display)
    return PluginEndpoint(entry=registry.for_scheme(scheme), reference=reference, display=display)


def _shown(reference: str) -> str:
    """What is no URI may be a password in the wrong place: a reference is shown, other texts are not."""
    return reference if is_reference(reference) else "what was given"


def _remote(scheme: str, uri: str, display: str, allow_plaintext: bool) -> Target:
    parts = urlsplit(uri)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.path.strip("/") or "@" in parts.netloc:
        raise RequestError(f"{display}: write {scheme}://HOST:PORT, with parameters after a question mark")
    given = _parameters(scheme, parts.query, display)
    if scheme == "grpc" and not allow_plaintext and not is_loopback(host):
        raise RequestError(
            f"{display}: plaintext is for this machine alone; use grpcs://, or --allow-plaintext in a network you trust"
        )
    token = given.get("token")
    return Target(
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        name=f"{scheme}://{parts.netloc}",
        tls=_tls(given, display) if scheme == "grpcs" else None,
        token=resolve(token, what=f"{display}: token") if token else "",
    )


def _parameters(scheme: str, query: str, display: str) -> dict[str, str]:
    known = _REMOTE_PARAMETERS[scheme]
    given: dict[str, str] = {}
    for parameter in filter(None, query.split("&")):
        name, _, value = parameter.partition("=")
        if name not in known:
            raise OptionError(f"{display}: there is no parameter {name!r}; {scheme}:// has {', '.join(known)}")
        given[name] = unquote(value)
    return given


def _tls(given: dict[str, str], display: str) -> Tls:
    if ("cert" in given) != ("key" in given):
        raise OptionError(f"{display}: cert and key belong together; give both or neither")

    def pem(name: str) -> bytes | None:
        return _read(Path(given[name]).expanduser(), f"{display}: {name}") if name in given else None

    return Tls(ca=pem("ca"), certificate=pem("cert"), key=pem("key"))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise OptionError(f"{what}: cannot read the file {path} ({exc.strerror}); check its path and its mode") from exc


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
