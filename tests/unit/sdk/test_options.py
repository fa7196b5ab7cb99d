"""Options of a connector: taken out of its URI, refused by name, and never shown where they are secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from dsync.protocol.errors import OptionError
from dsync.protocol.interface import Connector
from dsync.sdk.options import Options, describe_options, parse_options
from dsync.sdk.plugin import ConnectorSpec
from dsync.sdk.references import is_reference, resolve

LIBPQ = {"sslmode", "application_name", "options"}


class ShopOptions(Options):
    """Options of every kind."""

    page_rows: Annotated[int, Field(description="Rows in a page.", ge=1)] = 100
    password: Annotated[SecretStr | None, Field(description="The password.")] = None
    mode: Annotated[Literal["fast", "slow"], Field(description="How.")] = "fast"
    tables: Annotated[tuple[str, ...], Field(description="Which.")] = ("a", "b")
    is_eager: Annotated[bool, Field(description="Whether.")] = False
    folder: Annotated[Path | None, Field(description="Where.")] = None


class NeededOptions(Options):
    """One that must be given."""

    bucket: Annotated[str, Field(description="The bucket.")]


def spec(options: type[Options] = ShopOptions) -> ConnectorSpec:
    return ConnectorSpec(
        name="shop",
        schemes=("shop",),
        summary="",
        options=lambda: options,
        create=lambda uri, options, context: Connector(),
        passes_unknown_options=LIBPQ.__contains__,
    )


def test_options_are_taken_out_and_the_rest_of_the_uri_stays() -> None:
    """Byte for byte: what belongs to the driver is the driver's to decode."""
    uri = "shop://us%20er:p%40ss@h1:1,h2:2/db%2F?sslmode=require&page_rows=7&options=-c%20a%3Db+c&is_eager=true&tables=x,y"
    clean, options = parse_options(spec(), uri)
    assert clean == "shop://us%20er:p%40ss@h1:1,h2:2/db%2F?sslmode=require&options=-c%20a%3Db+c"
    assert options == ShopOptions(page_rows=7, is_eager=True, tables=("x", "y"))


def test_a_uri_without_options_is_unchanged() -> None:
    """Defaults apply, and no question mark is left over."""
    assert parse_options(spec(), "shop://h/db") == ("shop://h/db", ShopOptions())
    assert parse_options(spec(), "shop://h/db?page_rows=1")[0] == "shop://h/db"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("page_row=1", "there is no option 'page_row'; did you mean page_rows"),
        ("zzz=1", "it has folder, is_eager, mode, page_rows, password, tables"),
        ("page_rows=x", "option page_rows: Input should be a valid integer"),
        ("page_rows=0", "option page_rows: Input should be greater than or equal to 1"),
        ("mode=medium", "option mode: Input should be 'fast' or 'slow'"),
        ("page_rows=1&page_rows=2", "option page_rows is given twice"),
        ("password=env:DSYNC_NOT_SET", "environment variable DSYNC_NOT_SET is not set"),
        ("password=file:/nonexistent", "cannot read the file /nonexistent"),
    ],
)
def test_what_is_wrong_is_named(query: str, message: str) -> None:
    """The connector, the option and what to do about it; exit code 2."""
    with pytest.raises(OptionError, match=message) as caught:
        parse_options(spec(), f"shop://h/db?{query}")
    assert str(caught.value).startswith("shop: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "uri",
    [
        "fake://u:ca?nary@h/d",
        "fake://u:ca?nary&canary@h:1/d",
        "fake://u:ca?canary=1@h",
        "fake://h/d?can#ary@x",
        "fake://h?=canary",
    ],
)
def test_a_password_with_a_question_mark_is_not_repeated(uri: str) -> None:
    """What follows it looks like options; the way to write it is said."""
    with pytest.raises(OptionError, match="percent-encode") as caught:
        parse_options(spec(), uri)

    assert "nary" not in str(caught.value)


@pytest.mark.parametrize(
    "base", ["fake://h:5432/d", "fake://h:1,i:2/d", "fake://[::1]:5432/d", "fake:///d", "fake://u@h/d"]
)
def test_an_at_sign_in_an_option_is_no_password(base: str) -> None:
    assert parse_options(spec(), f"{base}?options=me@corp")[0] == f"{base}?options=me@corp"


def test_an_option_that_must_be_given_is_asked_for() -> None:
    """Several complaints come in one message."""
    with pytest.raises(OptionError, match="option bucket must be given"):
        parse_options(spec(NeededOptions), "shop://h")


def test_options_beside_the_uri() -> None:
    """From the flow file; one that the URI has too is a contradiction, not a choice."""
    assert parse_options(spec(), "shop://h", {"page_rows": "3"})[1] == ShopOptions(page_rows=3)
    with pytest.raises(OptionError, match="in the URI and beside it"):
        parse_options(spec(), "shop://h?page_rows=2", {"page_rows": "3"})
    with pytest.raises(OptionError, match="no option 'sslmode'"):
        parse_options(spec(), "shop://h", {"sslmode": "require"})


def test_a_secret_is_resolved_and_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By variable, by file, or as it stands; in no repr and in no complaint about another option."""
    monkeypatch.setenv("DSYNC_PW", "hunter22")
    (tmp_path / "pw").write_text("hunter23\n")
    for reference, value in [
        ("env:DSYNC_PW", "hunter22"),
        (f"file:{tmp_path}/pw", "hunter23"),
        ("hunter24", "hunter24"),
    ]:
        _, options = parse_options(spec(), f"shop://h?password={reference}")
        assert options.secrets() == {value}
        assert value not in repr(options) + str(options)
        with pytest.raises(OptionError) as caught:
            parse_options(spec(), f"shop://h?password={reference}&page_rows={value}")
        assert value not in str(caught.value)


def test_only_secrets_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may be called `env:HOME`."""
    monkeypatch.setenv("DSYNC_PW", "hunter22")
    assert parse_options(spec(), "shop://h?tables=env:DSYNC_PW")[1] == ShopOptions(tables=("env:DSYNC_PW",))


def test_options_are_described() -> None:
    """What `connectors show` prints: name, type, default and a sentence each."""
    described = {info.name: (info.type, info.default, info.is_secret) for info in describe_options(ShopOptions)}
    assert described == {
        "page_rows": ("integer", "100", False),
        "password": ("secret", "", True),
        "mode": ("fast|slow", "fast", False),
        "tables": ("text,…", "a,b", False),
        "is_eager": ("true|false", "false", False),
        "folder": ("Path", "", False),
    }
    assert all(info.description for info in describe_options(ShopOptions))
    (needed,) = describe_options(NeededOptions)
    assert needed.is_required


@given(st.text(max_size=60))
def test_any_query_is_taken_or_refused(query: str) -> None:
    """Nothing a user can type ends in another error."""
    try:
        clean, _ = parse_options(spec(), f"shop://h?{query}")
    except OptionError:
        return
    assert clean.startswith("shop://h")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env:A", True),
        ("file:/a", True),
        ("file:a", True),
        ("file:///data", False),
        ("env:", False),
        ("postgresql://h", False),
    ],
)
def test_what_a_reference_is(text: str, expected: bool) -> None:
    """`file://…` is a URI, of the connector for files."""
    assert is_reference(text) is expected


def test_a_referenced_file_is_small_text(tmp_path: Path) -> None:
    """A path that leads to something else is a slip, and its content must not end up in a message."""
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfehunter22")
    large.write_bytes(b"x" * 70_000)
    for path, message in [(binary, "not UTF-8"), (large, "larger than"), (tmp_path, "directory")]:
        with pytest.raises(OptionError, match=message) as caught:
            resolve(f"file:{path}", what="the password")
        assert "hunter22" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__ or path is tmp_path
