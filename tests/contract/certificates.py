"""An authority and certificates for tests, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """PEM files: an authority, what it signed for a server on this machine and for a client, and a stranger's."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    stranger: Path
    stranger_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make them all; a few tenths of a second."""
    ca, ca_key = _authority(folder, "ca")
    other_ca, other_key = _authority(folder, "other")
    server, server_key = _signed(folder, "server", ca, ca_key, "subjectAltName=DNS:localhost,IP:127.0.0.1")
    client, client_key = _signed(folder, "client", ca, ca_key, "subjectAltName=URI:spiffe://dsync/coordinator")
    stranger, stranger_key = _signed(folder, "stranger", other_ca, other_key, "subjectAltName=DNS:stranger")
    return Certificates(
        ca=ca,
        server=server,
        server_key=server_key,
        client=client,
        client_key=client_key,
        stranger=stranger,
        stranger_key=stranger_key,
    )


def _authority(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl(
        "req", "-x509", *_new_key(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={name}",
        "-addext", "basicConstraints=critical,CA:TRUE",
    )  # fmt: skip
    return certificate, key


def _signed(folder: Path, name: str, ca: Path, ca_key: Path, extension: str) -> tuple[Path, Path]:
    request, certificate, key = folder / f"{name}.csr", folder / f"{name}.pem", folder / f"{name}.key"
    extensions = folder / f"{name}.ext"
    extensions.write_text(extension + "\n")
    _openssl("req", *_new_key(key), "-out", str(request), "-subj", f"/CN={name}")
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial",
        "-out", str(certificate), "-days", "2", "-extfile", str(extensions),
    )  # fmt: skip
    return certificate, key


def _new_key(key: Path) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
