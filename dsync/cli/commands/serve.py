"""`dsync serve`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from dsync.cli.answer import Answer, print_answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints, complete_files
from dsync.cli.settings import Settings

if TYPE_CHECKING:
    from dsync.app.serve import Serving


@click.command("serve", cls=DsyncCommand, short_help="Run a connector for coordinators on other machines.")
@click.argument("uri", shell_complete=complete_endpoints)
@click.option("--listen", metavar="ADDR", required=True, help="HOST:PORT to listen on; port 0 takes a free one.")
@click.option(
    "--tls-cert", metavar="FILE", default="", shell_complete=complete_files, help="The server's certificate chain, PEM."
)
@click.option(
    "--tls-key",
    metavar="FILE",
    default="",
    shell_complete=complete_files,
    help="The private key of that certificate, PEM.",
)
@click.option(
    "--client-ca",
    metavar="FILE",
    default="",
    shell_complete=complete_files,
    help="Let in only clients with a certificate of this authority, PEM.",
)
@click.option(
    "--token",
    metavar="REF",
    default="",
    help="Let in only callers with this token: env:NAME or file:PATH, never the token itself.",
)
@click.option(
    "--allow-plaintext", is_flag=True, help="Serve without TLS to other machines too, in a network you trust."
)
@click.pass_obj
def serve(
    settings: Settings,
    uri: str,
    listen: str,
    tls_cert: str,
    tls_key: str,
    client_ca: str,
    token: str,
    allow_plaintext: bool,
) -> Answer:
    """Run the connector behind URI for coordinators on other machines, until SIGTERM or Ctrl-C.

    They reach it as grpc://HOST:PORT or grpcs://HOST:PORT. Calls in flight end before it does.
    """
    from dsync.app.serve import ServeRequest, serve_connector
    from dsync.cli.logs import configure_logging
    from dsync.quick_start import end_imports

    configure_logging(settings)

    def on_started(serving: Serving) -> None:
        print_answer(_answer(serving), settings)

    request = ServeRequest(
        uri=uri,
        listen=listen,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        token=token,
        allow_plaintext=allow_plaintext,
    )
    end_imports()
    asyncio.run(serve_connector(request, on_started))
    return Answer(summary="", is_printed=True)


def _answer(serving: Serving) -> Answer:
    terms = [
        text
        for text, applies in (
            ("callers need the token (?token=env:NAME)", serving.needs_token),
            ("and a client certificate (?cert=FILE&key=FILE)", serving.needs_client_certificate),
        )
        if applies
    ]
    return Answer(
        summary=f"serving {serving.connector} at {serving.address}" + (f"; {' '.join(terms)}" if terms else ""),
        result={
            "connector": serving.connector,
            "address": serving.address,
            "needs_token": serving.needs_token,
            "needs_client_certificate": serving.needs_client_certificate,
        },
    )
