"""Where a URI leads, and what to say when nothing there lets us in.

libpq's own words about a URI or a failed connection may quote parts of it, so nothing of a URI that cannot be read
is repeated, and the password is taken out of everything else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg
from psycopg import conninfo

from dsync.sdk import errors
from dsync_postgres.options import LINE_DEFAULTS

CONNECT_LIMIT_S = 10
"""The first contact fails within this time (and so does every later one)."""

_SECRET_PARAMETERS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_HIDDEN = "********"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database to connect to."""

    parameters: Mapping[str, str] = field(repr=False)
    """As libpq names them; secrets among them."""

    @classmethod
    def of(cls, uri: str, chosen: Mapping[str, str] | None = None) -> Target:
        """Read a URI; parameters that were `chosen` beside it take the place of those in it.

        Raises:
            RequestError: libpq cannot read the URI.
        """
        try:
            parsed = {k: str(v) for k, v in conninfo.conninfo_to_dict(uri).items() if v is not None}
        except psycopg.ProgrammingError:
            raise errors.RequestError(
                "the PostgreSQL URI cannot be read; it looks like postgresql://user@host:port/database?option=value, "
                "with reserved characters (@ : / ? # % and spaces) of its parts percent-encoded"
            ) from None
        if "@" in parsed.get("host", "") or not re.fullmatch(r"[\d,]*", parsed.get("port", "")):
            raise errors.RequestError(
                "the PostgreSQL URI cannot be read: host or port are none; percent-encode @ : / in user and password"
            )
        parsed.update(chosen or {})
        if "replication" in parsed:
            raise errors.OptionError(
                "option 'replication' is not for the URI: dsync chooses what kind of session it opens"
            )
        return cls(parameters=parsed)

    @property
    def conninfo(self) -> str:
        """For the driver; contains the secrets."""
        limit = min(int(self.parameters.get("connect_timeout") or CONNECT_LIMIT_S) or CONNECT_LIMIT_S, CONNECT_LIMIT_S)
        # What is given here would win over what the service says.
        defaults = {} if "service" in self.parameters or "PGSERVICE" in os.environ else LINE_DEFAULTS
        given = {"fallback_application_name": "dsync", **defaults, **self.parameters, "connect_timeout": str(limit)}
        return conninfo.make_conninfo("", **given)

    def __str__(self) -> str:
        """For messages: `database shop at db.example:5432 as dsync`, as far as the URI says."""
        given = self.parameters
        host = given.get("host") or given.get("hostaddr") or ""
        words = [
            f"database {given['dbname']}" if "dbname" in given else "the default database",
            f"of service {given['service']}" if "service" in given else "",
            f"at {host or 'the local socket'}" + (f":{given['port']}" if "port" in given else "")
            if not ("service" in given and not host)
            else "",
            f"as {given['user']}" if "user" in given else "",
        ]
        return " ".join(word for word in words if word)

    def scrub(self, text: str) -> str:
        """The text without any of the secrets."""
        for name in _SECRET_PARAMETERS:
            secret = self.parameters.get(name, "")
            if len(secret) > 3:
                text = text.replace(secret, _HIDDEN)
        return text

    def translate(self, exc: psycopg.Error) -> errors.DsyncError:
        """The error of ours for a connection that was not made.

        libpq tells no SQLSTATE here, so its English words decide; what is not recognised counts as a server that
        cannot be reached, with the words.
        """
        text = self.scrub(" ".join(str(exc).split()))
        prefix = f"connecting to {self}"
        if "no password supplied" in text or (exc.pgconn is not None and exc.pgconn.needs_password):
            return errors.AuthenticationError(
                f"{prefix}: the server asks for a password and none was given; set PGPASSWORD, add a line to ~/.pgpass "
                "or use ?password=env:NAME"
            )
        for pattern, kind, reason, step in _REASONS:
            if re.search(pattern, text):
                return kind(f"{prefix}: {reason}; {step}")
        return errors.ServerUnavailableError(f"{prefix}: {_essence(text)}; check host, port and that the server runs")


_REASONS: tuple[tuple[str, type[errors.DsyncError], str, str], ...] = (
    (
        r"permission denied to start WAL sender|must be superuser or replication role to start walsender",
        errors.PrivilegeError,
        "the role may not replicate",
        "ALTER ROLE … REPLICATION (on managed services grant the replication role), or choose --mode copy",
    ),
    (
        r"exceeds \"?max_wal_senders",
        errors.ThrottledError,
        "all WAL senders of the server are in use",
        "end replication connections that nobody needs, or raise max_wal_senders",
    ),
    (
        r"unsupported (startup )?parameter.*replication|replication.*not supported",
        errors.UnsupportedError,
        "what answers there is a pooler that does not pass replication connections on",
        "give the server's own host and port",
    ),
    (
        r"too many (connections|clients)|remaining connection slots",
        errors.ThrottledError,
        "the server has no connection left",
        "lower --parallel, end idle sessions or raise max_connections",
    ),
    (
        r"(password|Ident|Peer|LDAP|PAM|GSSAPI|certificate|SCRAM)[\w ]* authentication failed|authentication failed",
        errors.AuthenticationError,
        "the server refused the user or its password",
        "check user and password (PGPASSWORD, ~/.pgpass, ?password=env:NAME)",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        errors.AuthenticationError,
        "the server's pg_hba.conf does not let this host, user and database in",
        "add a line to it, or try sslmode=require if it wants TLS",
    ),
    (r'role ".*" does not exist', errors.AuthenticationError, "there is no such user", "check the user in the URI"),
    (
        r'role ".*" is not permitted to log in',
        errors.AuthenticationError,
        "the role may not log in",
        "use a role with LOGIN",
    ),
    (
        r'database ".*" does not exist',
        errors.MissingObjectError,
        "there is no such database",
        "check the name after the last / of the URI, or create it",
    ),
    (
        r"permission denied for database",
        errors.PrivilegeError,
        "the role lacks CONNECT on the database",
        "GRANT CONNECT ON DATABASE … TO the role",
    ),
    (
        r"is not currently accepting connections",
        errors.PrivilegeError,
        "the database allows no connections",
        "ALTER DATABASE … ALLOW_CONNECTIONS true, or choose another one",
    ),
    (
        r"does not support SSL|certificate verify failed|root certificate|server certificate|SSL error|tlsv1 alert",
        errors.AuthenticationError,
        "no TLS connection that satisfies sslmode and sslrootcert comes about",
        "check sslmode, sslrootcert, sslcert and sslkey against the server's certificate",
    ),
    (
        r'definition of service ".*" not found|service file',
        errors.RequestError,
        "the service is not defined",
        "check service= in the URI and ~/.pg_service.conf or PGSERVICEFILE",
    ),
    (
        r"timeout expired|[Tt]imed out",
        errors.ServerUnavailableError,
        f"no answer within {CONNECT_LIMIT_S} s",
        "check host, port and firewalls",
    ),
    (
        r"failed to resolve|could not translate host name|Name or service not known",
        errors.ServerUnavailableError,
        "the host name does not resolve",
        "check the host in the URI",
    ),
    (
        r"starting up|shutting down|recovery mode|not yet accepting|hot standby mode is disabled",
        errors.ServerUnavailableError,
        "the server is starting, stopping or recovering",
        "try again when it is up",
    ),
    (
        r"Connection refused|No such file or directory",
        errors.ServerUnavailableError,
        "nothing listens there",
        "check host and port, and that the server runs",
    ),
)


def _essence(text: str) -> str:
    """The last statement of libpq's message, without its preamble."""
    return re.split(r"failed: (?!.*failed: )", text)[-1].removeprefix("FATAL: ").strip()[:300]
