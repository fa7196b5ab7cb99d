"""Row filters are read before a server sees them: one condition, on one row's own columns, the same at every time."""

from __future__ import annotations

import pytest
from dsync_postgres.source.filters import read_filter

from dsync.sdk import errors


@pytest.mark.parametrize(
    "text",
    [
        "total > 100",
        "total > 100 AND state = 'open'",
        "(a OR b) AND NOT c",
        "id IN (1, 2, 3)",
        "lower(name) LIKE 'a%'",
        "data->>'x' = 'b' AND tags @> ARRAY['x']",
        "data ? 'key'",
        "data @? '$.a'",
        "\"Odd Name\" = 'it''s; -- no comment'",
        "a BETWEEN 1 AND 2",
        "x ~ '^a'",
        "x = E'a\\'b'",
        "x = $$a)$$",
        "a OPERATOR(pg_catalog.=) 1",
        "extract(year from at) = 2024",
        "CASE WHEN a THEN b ELSE c END",
        "at AT TIME ZONE 'UTC' > '2024-01-01'",
        "(a, b) > (1, 2)",
        "a IS DISTINCT FROM b",
        "x ILIKE ANY (ARRAY['a'])",
        "now = 'soon'",
    ],
)
def test_a_condition_is_taken_as_it_is(text: str) -> None:
    read_filter("shop.orders", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("total >", "it cannot be read"),
        ("true) UNION SELECT (1", "it cannot be read"),
        ("1=1) OR (1=1", "it is not one condition|it cannot be read"),
        ("1=1; DROP TABLE x", "it cannot be read"),
        ("1=1;", "it is not one condition|it cannot be read"),
        ("1=1 -- x", "it is not one condition"),
        ("1=1 --", "it is not one condition"),
        ("1=1 /* x */", "it is not one condition"),
        ("1=1 /*", "it is not one condition|it cannot be read"),
        ("a, b", "it cannot be read"),
        ("total > 1 ORDER BY 1", "it cannot be read"),
        ("total > 1 LIMIT 5", "it cannot be read"),
        ("DELETE FROM x", "it cannot be read|it is not one condition"),
        ("id IN (SELECT 1)", "more than one row's own values"),
        ("EXISTS (SELECT FROM x)", "more than one row's own values"),
        ("count(*) > 1", "more than one row's own values"),
        ("row_number() OVER () < 5", "more than one row's own values"),
        ("a = $1", "more than one row's own values"),
        ("a = %s", "it cannot be read|more than one row's own values"),
        ("*", "more than one row's own values"),
        ("o.total > 1", "names a table"),
        ("at < now()", "something else later"),
        ("at < pg_catalog.now()", "something else later"),
        ("at > current_date", "something else later"),
        ("at > 'yesterday'", "something else later"),
        ("owner = CURRENT_USER", "something else later"),
    ],
)
def test_anything_else_is_refused_with_the_table_and_the_way_on(text: str, said: str) -> None:
    with pytest.raises(errors.RequestError, match=rf"^filter of shop\.orders: .*({said}).*; "):
        read_filter("shop.orders", text)
