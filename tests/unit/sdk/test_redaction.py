"""No secret in what is shown, logged or stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk.redaction import HIDDEN, Redactor, redact_uri, secrets_of_uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://h/db", "postgresql://h/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://u:pw@h:5432/db?sslmode=require", "postgresql://u:***@h:5432/db?sslmode=require"),
        ("postgresql://u:p@w/x@h/db", "postgresql://u:***@h/db"),
        ("postgresql://:pw@h", "postgresql://:***@h"),
        ("postgresql://u:a@h1:1,h2:2/db", "postgresql://u:***@h1:1,h2:2/db"),
        ("postgresql:///db?user=u&password=pw", "postgresql:///db?user=u&password=***"),
        ("postgresql:///db?sslpassword=pw&passfile=/f", "postgresql:///db?sslpassword=***&passfile=/f"),
        ("postgresql:///db?password=env:PW", "postgresql:///db?password=env:PW"),
        ("postgresql:///db?pass%77ord=pw", "postgresql:///db?pass%77ord=***"),
        (
            "s3://b?aws_secret_access_key=k&access_key=i&session_token=t",
            "s3://b?aws_secret_access_key=***&access_key=***&session_token=***",
        ),
        ("grpcs://h:1?token=t&ca=/f", "grpcs://h:1?token=***&ca=/f"),
        ("env:NAME", "env:NAME"),
        ("", ""),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    """What is malformed loses rather too much than too little; references may be seen."""
    assert redact_uri(uri) == shown


@given(st.text(st.characters(codec="utf-8", exclude_characters="?#"), min_size=4, max_size=30))
def test_whatever_the_password_it_is_hidden(password: str) -> None:
    """Unescaped marks in it included, as people type them."""
    uri = f"postgresql://some:{password}@host/db"
    assert redact_uri(uri).endswith(f"some:{HIDDEN}@host/db")
    assert password in "".join(secrets_of_uri(uri))


def test_the_secrets_of_a_uri_in_both_forms() -> None:
    """As typed, and as the driver will use and perhaps print it."""
    assert secrets_of_uri("a://u:p%40ss@h?password=x%20y&token=env:T&b=c") == {"p%40ss", "p@ss", "x%20y", "x y"}
    assert secrets_of_uri("a://h/db?sslmode=require") == frozenset()


def test_a_log_event_is_searched_all_through() -> None:
    """Texts, containers and the texts of objects; numbers stay numbers."""

    class Thing:
        def __str__(self) -> str:
            return "thing with p@ss"

    redactor = Redactor(["p@ss", "p@ssword"])
    event = {
        "event": "p@ssword p%40ss",
        "n": 3,
        "flag": True,
        "none": None,
        "list": ["p@ss", {"k": "p@ss"}],
        "o": Thing(),
    }
    assert redactor(None, "info", event) == {
        "event": "*** ***",
        "n": 3,
        "flag": True,
        "none": None,
        "list": ["***", {"k": "***"}],
        "o": "thing with ***",
    }


def test_secrets_learnt_later_are_hidden_from_then_on() -> None:
    """A plug-in resolves its own; the shortest texts are no secrets but would blank every line."""
    redactor = Redactor()
    assert redactor.text("hunter22 a") == "hunter22 a"
    redactor.add(["hunter22", "a", ""])
    assert redactor.text("hunter22 a") == "*** a"
