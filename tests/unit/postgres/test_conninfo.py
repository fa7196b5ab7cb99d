"""URIs: what libpq takes is taken, and nothing secret comes out."""

import psycopg
import pytest
from dsync_postgres.conninfo import CONNECT_LIMIT_S, Target
from dsync_postgres.options import PostgresOptions, is_libpq_parameter
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from dsync.sdk import errors


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://user:canary@xyzzy@host/db",
        "postgresql://user:canary/xyzzy@host/db",
        "postgresql://user:can:ary@ho:st@host/db",
        "postgresql://user:canary@host:port/db",
        "postgresql://user:canary@host/db?nonsense=canary",
        "postgresql://user:canary@[::1/db",
        "postgresql://user:canary%zz@host/db",
        "host=x password='canary",
    ],
)
def test_a_uri_that_cannot_be_read_is_not_repeated(uri: str) -> None:
    """libpq would quote the piece it stumbled over, which may be a piece of the password."""
    with pytest.raises(errors.RequestError) as caught:
        Target.of(uri)

    assert "canary" not in str(caught.value)
    assert "xyzzy" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "a traceback would show libpq's words"


def test_secrets_beside_the_uri_win() -> None:
    """An option that names where the password is takes the place of one in the URI."""
    options = PostgresOptions(password=SecretStr("new"), sslpassword=None)
    target = Target.of("postgresql://u:old@h/d", options.chosen)

    assert conninfo_to_dict(target.conninfo)["password"] == "new"


def test_a_target_shows_where_it_leads_and_no_secret() -> None:
    """For messages and logs."""
    target = Target.of("postgresql://me:canary@db.example:6432/shop?sslmode=require")

    assert str(target) == "database shop at db.example:6432 as me"
    assert "canary" not in repr(target)
    assert str(Target.of("postgresql:///?service=main")) == "the default database of service main"


@pytest.mark.parametrize(("given", "used"), [("", CONNECT_LIMIT_S), ("3", 3), ("0", CONNECT_LIMIT_S), ("600", 10)])
def test_connecting_is_limited_whatever_the_uri_says(given: str, used: int) -> None:
    """The first contact fails within ten seconds; a shorter limit is the user's to choose."""
    uri = "postgresql://h/d" + (f"?connect_timeout={given}" if given else "")

    assert conninfo_to_dict(Target.of(uri).conninfo)["connect_timeout"] == str(used)


def test_a_silent_connection_is_given_up_within_half_a_minute() -> None:
    """libpq would leave it to the system, which takes two hours to ask and fifteen minutes to give up."""
    used = conninfo_to_dict(Target.of("postgresql://h/d", PostgresOptions().chosen).conninfo)

    idle, interval, count = (int(used[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
    assert idle + interval * count < 30
    assert int(used["tcp_user_timeout"]) < 30_000


def test_what_the_user_says_of_silence_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an option, in the URI, or in the service file, which nothing of ours may hide."""
    chosen = PostgresOptions(keepalives_idle=60).chosen

    assert conninfo_to_dict(Target.of("postgresql://h/d", chosen).conninfo)["keepalives_idle"] == "60"
    assert conninfo_to_dict(Target.of("postgresql://h/d?keepalives_count=9").conninfo)["keepalives_count"] == "9"
    assert "keepalives_idle" not in conninfo_to_dict(Target.of("postgresql:///?service=main").conninfo)
    monkeypatch.setenv("PGSERVICE", "main")
    assert "tcp_user_timeout" not in conninfo_to_dict(Target.of("postgresql:///").conninfo)


def test_what_would_change_the_kind_of_session_is_refused() -> None:
    """`replication` would make it a WAL sender, where our statements mean nothing."""
    assert not is_libpq_parameter("replication")
    with pytest.raises(errors.OptionError, match="replication"):
        Target.of("postgresql://h/d?replication=database")


def test_the_list_of_parameters_is_libpqs() -> None:
    """What this libpq knows passes through, but for what is written down as not ours to pass."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    withheld = {"replication", "scram_client_key", "scram_server_key", "sslkeylogfile"}

    assert {name for name in known if not is_libpq_parameter(name)} <= withheld
    assert not is_libpq_parameter("partition_bytes")


def test_a_secret_is_taken_out_of_whatever_libpq_says() -> None:
    """Some of its messages quote parameters."""
    target = Target.of("postgresql://me:canary@db.example/shop")

    error = target.translate(psycopg.OperationalError("connection failed: something odd about canary"))

    assert isinstance(error, errors.ServerUnavailableError)
    assert "canary" not in str(error)
    assert "something odd" in str(error)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('FATAL:  database "x" is not currently accepting connections', errors.PrivilegeError),
        ("FATAL:  sorry, too many clients already", errors.ThrottledError),
        ("FATAL:  remaining connection slots are reserved for roles with SUPERUSER", errors.ThrottledError),
        ("FATAL:  the database system is starting up", errors.ServerUnavailableError),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d"', errors.AuthenticationError),
        ('FATAL:  role "u" is not permitted to log in', errors.AuthenticationError),
        ("server does not support SSL, but SSL was required", errors.AuthenticationError),
        ("fe_sendauth: no password supplied", errors.AuthenticationError),
        ("connection timeout expired", errors.ServerUnavailableError),
    ],
)
def test_libpqs_words_are_told_apart(said: str, kind: type[errors.DsyncError]) -> None:
    """There is no code to go by before a connection is made."""
    error = Target.of("postgresql://h/d").translate(psycopg.OperationalError(f"connection failed: {said}"))

    assert type(error) is kind
    assert "; " in str(error), "it says what to do next"
