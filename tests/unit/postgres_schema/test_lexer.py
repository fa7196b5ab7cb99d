"""What stands inside a string, a quoted name, a comment or a body is never taken for anything else."""

from __future__ import annotations

import pytest
from dsync_postgres.schema.errors import ArchiveError
from dsync_postgres.schema.lexer import Kind, name_after, statements, tokens
from dsync_postgres.schema.names import TableName
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk import errors

_NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@given(_NAME, _NAME, _NAME)
def test_quoted_names_and_strings_come_back_whole(schema: str, name: str, text: str) -> None:
    sql = f"COMMENT ON TABLE {_quoted(schema)}.{_quoted(name)} IS {_string(text)};"

    pieces = tuple(tokens(sql))

    assert [piece.text for piece in pieces][-2:] == [_string(text), ";"]
    assert name_after(pieces, "TABLE") == TableName(schema=schema, name=name)
    assert statements(sql) == [sql]


@given(st.lists(_NAME, min_size=1, max_size=5))
def test_statements_are_split_only_between_them(texts: list[str]) -> None:
    parts = [f"GRANT SELECT ON TABLE a.{_quoted(text)} TO {_quoted(text)};" for text in texts]

    assert statements("\n".join(parts)) == parts


@pytest.mark.parametrize(
    "body",
    [
        "$$ ; ' \" -- /* $$",
        "$_$ $$;$$ $_$",
        "E'it\\'s;'",
        "'a''b;'",
        "U&'\\0061;'",
        "/* ; /* nested */ ; */ 1",
        "-- ;\n1",
    ],
)
def test_a_semicolon_inside_is_part_of_what_it_is_in(body: str) -> None:
    assert statements(f"SELECT {body}; SELECT 2;") == [f"SELECT {body};", "SELECT 2;"]


@pytest.mark.parametrize("text", ["SELECT 'open", 'SELECT "open', "SELECT /* open /* */"])
def test_what_does_not_end_is_a_named_error(text: str) -> None:
    with pytest.raises(ArchiveError, match="not closed"):
        list(tokens(text))


def test_depth_counts_parentheses_around() -> None:
    assert [(t.text, t.depth) for t in tokens("a (b (c), d) e")] == [
        ("a", 0),
        ("(", 0),
        ("b", 1),
        ("(", 1),
        ("c", 2),
        (")", 1),
        (",", 1),
        ("d", 1),
        (")", 0),
        ("e", 0),
    ]


def test_a_keyword_that_is_a_name_is_not_the_keyword() -> None:
    """`view`, `partition` and `domain` are not reserved, so pg_dump writes them bare."""
    rule = tuple(tokens("CREATE RULE view AS ON DELETE TO shop.t DO INSTEAD NOTHING;"))
    attach = tuple(tokens("ALTER TABLE ONLY partition.partition ATTACH PARTITION partition.child DEFAULT;"))

    assert name_after(rule, "TO", "VIEW") == TableName(schema="shop", name="t")
    assert name_after(attach, "TABLE") == TableName(schema="partition", name="partition")
    assert name_after(attach, "PARTITION") == TableName(schema="partition", name="child")


def test_a_dollar_sign_alone_is_no_string() -> None:
    assert [t.kind for t in tokens("$1 + a$b$c")] == [Kind.OTHER, Kind.OTHER, Kind.OTHER, Kind.WORD]


@given(_NAME, _NAME)
def test_a_table_is_known_by_its_written_name(schema: str, name: str) -> None:
    table = TableName(schema=schema, name=name)

    assert TableName.parse(table.namespace) == table


@pytest.mark.parametrize("text", ["orders", "a.b.c"])
def test_a_name_without_exactly_two_parts_is_a_wrong_request(text: str) -> None:
    with pytest.raises(errors.RequestError, match=r"schema\.table"):
        TableName.parse(text)
