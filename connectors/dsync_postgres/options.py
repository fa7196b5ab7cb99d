"""The options of the PostgreSQL connector, and which query parameters are libpq's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from dsync.sdk.options import Options

MIB = 1024 * 1024

# What libpq 18 knows (PQconndefaults) without what would change what a session is: `replication` turns it into
# a WAL sender, the scram keys and the key log file are its own secrets. Written down, because asking libpq
# means importing it.
_LIBPQ = frozenset(
    {
        "service",
        "user",
        "password",
        "passfile",
        "channel_binding",
        "connect_timeout",
        "dbname",
        "host",
        "hostaddr",
        "port",
        "client_encoding",
        "options",
        "application_name",
        "fallback_application_name",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "sslmode",
        "sslnegotiation",
        "sslcompression",
        "sslcert",
        "sslkey",
        "sslcertmode",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslcrldir",
        "sslsni",
        "requirepeer",
        "require_auth",
        "min_protocol_version",
        "max_protocol_version",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "gssencmode",
        "krbsrvname",
        "gsslib",
        "gssdelegation",
        "target_session_attrs",
        "load_balance_hosts",
        "oauth_issuer",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_scope",
        "ssl",
        "requiressl",
    }
)


class PostgresOptions(Options):
    """What can be set for a PostgreSQL source or sink, beside those parameters of libpq that stay as they are."""

    password: Annotated[
        SecretStr | None,
        Field(description="The password: `env:NAME`, `file:PATH` or itself; else PGPASSWORD or ~/.pgpass."),
    ] = None
    sslpassword: Annotated[
        SecretStr | None,
        Field(description="The pass phrase of the client key: `env:NAME`, `file:PATH` or itself."),
    ] = None
    keepalives_idle: Annotated[
        int,
        Field(description="A silent connection is asked whether it lives after so many seconds; by both ends.", ge=0),
    ] = 10
    keepalives_interval: Annotated[
        int, Field(description="It is asked again after so many seconds without an answer.", ge=0)
    ] = 5
    keepalives_count: Annotated[
        int, Field(description="It is given up after so many questions without an answer.", ge=0)
    ] = 3
    tcp_user_timeout: Annotated[
        int,
        Field(
            description="It is given up, too, after so many milliseconds in which what was sent is not received.", ge=0
        ),
    ] = 25_000
    partition_bytes: Annotated[
        int,
        Field(description="What one partition of a table weighs on disk, in bytes.", ge=1 * MIB, le=1024 * 1024 * MIB),
    ] = 128 * MIB
    max_connections: Annotated[
        int,
        Field(description="At most this many connections at a time; 0: what the flow's parallelism needs.", ge=0),
    ] = 0
    tools_directory: Annotated[
        Path | None,
        Field(description="The folder of pg_dump; else PATH and the installed wheel are searched."),
    ] = None
    allow_drop_foreign_keys: Annotated[
        bool,
        Field(
            description="Sink: foreign keys of tables that exist may be dropped for the load and made again after it, "
            "where the role may not keep them from being checked otherwise."
        ),
    ] = False
    publication: Annotated[
        str,
        Field(
            description="Source: follow by this publication, which somebody has made and dsync never removes; empty: "
            "the flow makes its own.",
        ),
    ] = ""
    slot: Annotated[
        str,
        Field(
            description="Source: follow by this replication slot (plug-in pgoutput), which somebody has made and dsync "
            "never removes; empty: the flow makes its own.",
            pattern=r"^[a-z0-9_]{0,63}$",
        ),
    ] = ""
    overrule_read_only: Annotated[
        bool,
        Field(
            description="Sink: write although sessions of the database are read-only by default, as a cut-over with "
            "--freeze leaves a source that a flow back writes to."
        ),
    ] = False
    maintenance_work_mem: Annotated[
        str,
        Field(
            description="Sink: memory for each index build, as PostgreSQL writes it; empty: as the server has it.",
            pattern=r"^(\d+(kB|MB|GB))?$",
        ),
    ] = "256MB"

    @property
    def chosen(self) -> dict[str, str]:
        """What the user has set of libpq's own parameters, secrets among them."""
        found: dict[str, str] = {}
        for name in self.model_fields_set & _LIBPQ:
            value = getattr(self, name)
            if value is not None:
                found[name] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return found


def is_libpq_parameter(name: str) -> bool:
    """True for a query parameter that belongs to libpq and stays in the URI."""
    return name in _LIBPQ


LINE_DEFAULTS = {
    name: str(PostgresOptions.model_fields[name].default)
    for name in ("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
}
"""When a connection whose other end is gone without a word is given up: after 25 s, where libpq would take hours."""
