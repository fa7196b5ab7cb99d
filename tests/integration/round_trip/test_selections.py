"""Which tables a pattern chooses, and under which names they arrive."""

from __future__ import annotations

import pytest

from dsync.protocol.errors import DsyncError, RequestError
from tests.integration.round_trip.judge import contents
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

_SHOP = (
    "CREATE SCHEMA shop",
    'CREATE SCHEMA "Odd.One"',
    "CREATE TABLE shop.orders (id int PRIMARY KEY, note text)",
    "CREATE TABLE shop.order_lines (id int, note text)",
    "CREATE TABLE shop.customers (id int)",
    'CREATE TABLE "Odd.One"."a*b" (id int)',
    'CREATE TABLE "Odd.One"."a:b" (id int)',
    "CREATE TABLE public.orders (id int)",
    "INSERT INTO shop.orders SELECT n, 'o' || n FROM generate_series(1, 10) n",
    "INSERT INTO shop.order_lines SELECT n, 'l' || n FROM generate_series(1, 20) n",
    "INSERT INTO shop.customers SELECT generate_series(1, 30)",
    'INSERT INTO "Odd.One"."a*b" SELECT generate_series(1, 40)',
    'INSERT INTO "Odd.One"."a:b" SELECT generate_series(1, 50)',
    "INSERT INTO public.orders SELECT generate_series(1, 60)",
)
_ALL = {
    "shop.orders": 10,
    "shop.order_lines": 20,
    "shop.customers": 30,
    '"Odd.One"."a*b"': 40,
    '"Odd.One"."a:b"': 50,
    "public.orders": 60,
}


@pytest.fixture
def shop(source: Database) -> Database:
    source.run(*_SHOP)
    return source


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ((), list(_ALL)),
        (("shop.orders",), ["shop.orders"]),
        (("orders",), ["shop.orders", "public.orders"]),
        (("shop.*",), ["shop.orders", "shop.order_lines", "shop.customers"]),
        (("*order?",), ["shop.orders", "public.orders"]),
        (("re:.*order.*",), ["shop.orders", "shop.order_lines", "public.orders"]),
        (("re:(shop|public)\\.orders", "customers"), ["shop.orders", "public.orders", "shop.customers"]),
        (('"Odd.One"."a*b"',), ['"Odd.One"."a*b"']),
        (('"Odd.One".*',), ['"Odd.One"."a*b"', '"Odd.One"."a:b"']),
        (('"a:b"',), ['"Odd.One"."a:b"']),
    ],
    ids=str,
)
async def test_patterns_choose_tables(
    shop: Database, sink: Database, copier: Copier, patterns: tuple[str, ...], chosen: list[str]
) -> None:
    """By name, by the last part of it, by glob and by regular expression; a star in quotes is a star."""
    copied = await copier(namespaces=patterns)

    assert copied.exit_code == 0, copied.explained()
    assert copied.rows == {name: _ALL[name] for name in chosen}
    theirs = contents(sink, schema=False).rows
    assert sorted(count for count, _ in theirs.values()) == sorted(_ALL[name] for name in chosen)
    assert theirs.items() <= contents(shop, schema=False).rows.items()


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("shop.nothing",), "matches nothing"),
        (("shop.orders", "shop.nothing"), "matches nothing"),
        (("re:(",), "not a regular expression"),
        (('"open',), "not closed"),
        (("shop.*:other",), "a pattern cannot be mapped"),
        (("shop.orders:public.orders", "public.orders"), "both arrive as public.orders"),
    ],
    ids=str,
)
async def test_patterns_that_mean_nothing_change_nothing(
    shop: Database, sink: Database, copier: Copier, patterns: tuple[str, ...], said: str
) -> None:
    """A request that is wrong is told so before anything is made."""
    with pytest.raises(RequestError, match=said):
        await copier(namespaces=patterns)

    assert contents(sink, schema=False).rows == {}
    assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname IN ('shop', '_dsync')") == 0


async def test_mapped_tables_arrive_under_their_other_names(shop: Database, sink: Database, copier: Copier) -> None:
    """They exist already; what else the sink has is left alone."""
    sink.run(
        "CREATE SCHEMA other",
        'CREATE TABLE other."Kept: orders" (note text, id int PRIMARY KEY)',
        "CREATE TABLE public.order_lines (note text, id int)",
        "CREATE TABLE public.orders (id int)",
        "INSERT INTO public.orders VALUES (-1)",
    )

    copied = await copier(
        namespaces=('shop.orders:other."Kept: orders"', "shop.order_lines:public.order_lines"), schema_mode="none"
    )

    assert copied.exit_code == 0, copied.explained()
    assert {name: item.target for name, item in copied.tables.items()} == {
        "shop.orders": 'other."Kept: orders"',
        "shop.order_lines": "public.order_lines",
    }
    orders = shop.rows("SELECT id, note FROM shop.orders ORDER BY id")
    assert sink.rows('SELECT id, note FROM other."Kept: orders" ORDER BY id') == orders
    lines = shop.rows("SELECT id, note FROM shop.order_lines ORDER BY id")
    assert sink.rows("SELECT id, note FROM public.order_lines ORDER BY id") == lines
    assert sink.rows("SELECT id FROM public.orders") == [(-1,)]


async def test_a_mapped_table_has_to_exist(shop: Database, sink: Database, copier: Copier) -> None:
    """No definition of it under the other name is made up."""
    with pytest.raises(DsyncError, match=r"other\.orders") as raised:
        await copier(namespaces=("shop.orders:other.orders",))

    assert raised.value.exit_code == 2
    assert contents(sink, schema=False).rows == {}


_TREE = (
    "CREATE SCHEMA parts",
    "CREATE TABLE measures (at date NOT NULL, kind text, v int) PARTITION BY RANGE (at)",
    "CREATE TABLE parts.y2023 PARTITION OF measures FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
    "CREATE TABLE parts.y2024 PARTITION OF measures FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')"
    " PARTITION BY LIST (kind)",
    "CREATE TABLE parts.\"2024 a\" PARTITION OF parts.y2024 FOR VALUES IN ('a')",
    "CREATE TABLE parts.y2024_rest PARTITION OF parts.y2024 DEFAULT",
    "CREATE TABLE parts.elsewhere PARTITION OF measures DEFAULT",
    "CREATE TABLE parts.stranger (v int)",
    "INSERT INTO parts.stranger VALUES (1)",
    "INSERT INTO measures SELECT date '2022-12-30' + n * 9, chr(97 + n % 3), n FROM generate_series(1, 100) n",
)


async def test_a_partitioned_table_brings_its_partitions(source: Database, sink: Database, copier: Copier) -> None:
    """All of them, wherever they lie and however deep, and nothing else of their schema."""
    source.run(*_TREE)

    copied = await copier(namespaces=("public.measures",))

    assert copied.exit_code == 0, copied.explained()
    assert set(copied.rows) == {"parts.y2023", 'parts."2024 a"', "parts.y2024_rest", "parts.elsewhere"}
    ours, theirs = contents(source, schema=False).rows, contents(sink, schema=False).rows
    assert theirs == {name: rows for name, rows in ours.items() if name != ("parts", "stranger")}
    assert sink.value("SELECT count(*) FROM measures") == 100


async def test_one_partition_alone_arrives_as_a_table(source: Database, sink: Database, copier: Copier) -> None:
    """Nothing is made up for what was not chosen."""
    source.run(*_TREE)

    copied = await copier(namespaces=("parts.y2023",))

    assert copied.exit_code == 0, copied.explained()
    assert set(copied.rows) == {"parts.y2023"}
    ours, theirs = contents(source, schema=False).rows, contents(sink, schema=False).rows
    assert theirs == {("parts", "y2023"): ours["parts", "y2023"]}
