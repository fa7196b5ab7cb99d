"""Secrets on the command line are found, and wiped from the process's title at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from dsync.cli.title import hide_secrets, secret_spans


def _found(argument: str) -> list[str]:
    return [argument[start:end] for start, end in secret_spans(argument)]


@pytest.mark.parametrize(
    ("argument", "secrets"),
    [
        ("postgresql://app:canary@host:5432/shop", ["canary"]),
        ("--source=postgresql://app:canary@host/shop", ["canary"]),
        ("postgresql://app:can:ary/@x@host/shop", ["can:ary/@x"]),
        ("postgresql://app:can?ary@host/shop", ["can?ary"]),
        ("postgresql://app:can#ary@host/shop?sslmode=require", ["can#ary"]),
        ("postgresql://host/shop?user=app&password=canary&sslmode=require", ["canary"]),
        ("postgresql://host/shop?p%61ssword=canary", ["canary"]),
        ("postgresql://u:one@host/shop?sslpassword=two", ["one", "two"]),
        ("host=a password=canary dbname=shop", ["canary"]),
        ("host=a password='can ary'", ["'can ary'"]),
        ("postgresql://host:5432/shop", []),
        ("postgresql://host:5432/shop?options=-c%20x@y", []),
        ("postgresql://app@host:5432/shop", []),
        ("postgresql://app:@host/shop", []),
        ("postgresql://host/shop?password=env:PGPW", []),
        ("postgresql://host/shop?password=file:/run/pw", []),
        ("postgresql://host/shop?passfile=/root/.pgpass", []),
        ("env:SOURCE", []),
        ("shop.orders:shop.new_orders", []),
    ],
)
def test_secrets_are_found_and_references_are_none(argument: str, secrets: list[str]) -> None:
    """A password, wherever it stands and however badly it is escaped; `env:` and `file:` are left alone."""
    assert _found(argument) == secrets


def test_the_value_of_a_secret_flag_is_a_secret() -> None:
    """`--token canary` has no name beside its value."""
    assert hide_secrets(["serve", "--token", "canary"]) == {"canary"}
    assert hide_secrets(["serve", "--token", "env:TOKEN"]) == frozenset()


def test_a_percent_encoded_password_is_known_in_both_forms() -> None:
    """The server's messages hold it decoded, echoes of the command line as typed."""
    assert hide_secrets(["postgresql://app:can%40ary@host/shop"]) == {"can%40ary", "can@ary"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ps_does_not_show_a_password() -> None:
    """The rest of the line stays as it was, to the byte: somebody may look for the process by it."""
    program = (
        "import sys; from dsync.cli.title import hide_secrets; hide_secrets(sys.argv[1:]);"
        " print('ready', flush=True); sys.stdin.read()"
    )
    arguments = ["sync", "postgresql://äpp:cänary@host/shop", "x", "postgresql://b/shop?password=cänary2&x=1"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        shown = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[3:]
        child.communicate()

    assert [text.decode() for text in shown] == [
        "sync",
        "postgresql://äpp:*******@host/shop",
        "x",
        "postgresql://b/shop?password=********&x=1",
    ]


def test_a_password_that_is_the_user_name_is_no_secret() -> None:
    """Blanking `postgres` in every line would hide nothing and tell the password."""
    assert hide_secrets(["postgresql://postgres:postgres@host/shop"]) == frozenset()
