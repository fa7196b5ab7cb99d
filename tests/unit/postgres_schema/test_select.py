"""A choice of tables brings what it needs and no more; what it leaves is listed once, with the reason."""

from __future__ import annotations

import pytest
from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.errors import ArchiveError, SelectionError
from dsync_postgres.schema.graph import build_graph
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.select import SchemaSelection, select_all, select_tables

from tests.unit.postgres_schema.archives import archive, entry, foreign_key, index, primary_key, table


def _name(name: str) -> TableName:
    return TableName(schema="public", name=name)


def _tags(selection: SchemaSelection) -> list[str]:
    return [one.tag for one in selection.entries()]


def _all(*entries: TocEntry, excluded: tuple[str, ...] = ()) -> SchemaSelection:
    return select_all(build_graph(archive(*entries)), excluded=[_name(name) for name in excluded])


def _some(*entries: TocEntry, tables: tuple[str, ...], excluded: tuple[str, ...] = ()) -> SchemaSelection:
    names = [_name(name) for name in tables]
    return select_tables(build_graph(archive(*entries)), names, excluded=[_name(name) for name in excluded])


_SERIAL = (
    table(1, "t"),
    entry(2, "SEQUENCE", "t_id_seq", "CREATE SEQUENCE public.t_id_seq;", 1),
    entry(3, "SEQUENCE OWNED BY", "t_id_seq", "ALTER SEQUENCE public.t_id_seq OWNED BY public.t.id;", 2),
    entry(4, "DEFAULT", "t id", "ALTER TABLE ONLY public.t ALTER COLUMN id SET DEFAULT nextval('x');", 1, 2),
)


def test_a_serial_column_brings_its_sequence_and_both_ends_of_the_tie() -> None:
    assert _tags(_some(*_SERIAL, table(9, "other"), tables=("t",))) == ["t", "t_id_seq", "t_id_seq", "t id"]


def test_a_sequence_borrowed_from_another_table_comes_without_that_table() -> None:
    """Its default needs the sequence; who owns the sequence does not matter for that."""
    borrower = (
        table(5, "u"),
        entry(6, "DEFAULT", "u id", "ALTER TABLE ONLY public.u ALTER COLUMN id SET DEFAULT nextval('x');", 5, 2),
    )

    selection = _some(*_SERIAL, *borrower, tables=("u",))
    without_owner = _all(*_SERIAL, *borrower, excluded=("t",))

    assert _tags(selection) == ["t_id_seq", "u", "u id"]
    assert _tags(without_owner) == ["t_id_seq", "u", "u id"]
    assert without_owner.left_out == ()


_KEYED = (table(1, "a"), table(2, "b"), primary_key(3, "a", 1), primary_key(4, "b", 2))


def test_a_foreign_key_comes_only_with_both_tables() -> None:
    key = foreign_key(5, "b", "a", 2, 1, 3)

    both = _some(*_KEYED, key, tables=("a", "b"))
    one = _some(*_KEYED, key, tables=("b",))
    excluded = _all(*_KEYED, key, excluded=("a",))

    assert "b b_a" in _tags(both)
    for selection in (one, excluded):
        assert "b b_a" not in _tags(selection)
        assert [item.entry.tag for item in selection.left_out] == ["b b_a"]
        assert "references public.a" in selection.left_out[0].reason


def test_a_foreign_key_to_a_table_that_was_not_even_dumped_is_listed() -> None:
    """--exclude-table leaves the key in the archive and its target out of it."""
    selection = _all(table(2, "b"), foreign_key(5, "b", "hidden", 2, 77))

    assert _tags(selection) == ["b"]
    assert selection.left_out[0].reason == "it references public.hidden, whose rows are not copied"


_PARTITIONED = (
    table(1, "p"),
    table(2, "p1", 1),
    table(3, "p2", 1),
    entry(4, "TABLE ATTACH", "p1", "ALTER TABLE ONLY public.p ATTACH PARTITION public.p1 DEFAULT;", 2, 1),
    entry(5, "TABLE ATTACH", "p2", "ALTER TABLE ONLY public.p ATTACH PARTITION public.p2 DEFAULT;", 3, 1),
    index(6, "i", "p", 1),
    index(7, "i1", "p1", 2, 6),
    index(8, "i2", "p2", 3, 6),
    entry(9, "INDEX ATTACH", "i1", "ALTER INDEX public.i ATTACH PARTITION public.i1;", 7, 6),
    entry(10, "INDEX ATTACH", "i2", "ALTER INDEX public.i ATTACH PARTITION public.i2;", 8, 6),
)


def test_a_partitioned_table_brings_its_partitions_and_a_partition_not_its_parent() -> None:
    """An index of a partition is built by itself, although pg_dump lists it after the parent's."""
    whole = _some(*_PARTITIONED, tables=("p",))
    part = _some(*_PARTITIONED, tables=("p1",))
    without = _some(*_PARTITIONED, tables=("p",), excluded=("p2",))

    assert len(_tags(whole)) == len(_PARTITIONED)
    assert whole.tables == {_name("p"), _name("p1"), _name("p2")}
    assert _tags(part) == ["p1", "i1"]
    assert [(item.entry.desc, item.reason) for item in part.left_out] == [
        ("TABLE ATTACH", "it needs public.p, which is not selected")
    ]
    assert _tags(without) == ["p", "p1", "p1", "i", "i1", "i1"]


def test_excluding_a_partitioned_table_excludes_its_partitions() -> None:
    selection = _all(*_PARTITIONED, table(20, "other"), excluded=("p",))

    assert _tags(selection) == ["other"]
    assert selection.left_out == ()


def test_what_an_excluded_table_takes_along_is_listed_but_not_what_belongs_to_it() -> None:
    entries = (
        *_KEYED,
        entry(6, "VIEW", "v", "CREATE VIEW public.v AS SELECT;", 1),
        entry(7, "VIEW", "w", "CREATE VIEW public.w AS SELECT;", 6),
        entry(8, "COMMENT", "TABLE a", "COMMENT ON TABLE public.a IS 'x';", 1),
        entry(9, "TRIGGER", "v t", "CREATE TRIGGER t INSTEAD OF INSERT ON public.v EXECUTE FUNCTION f();", 6),
    )

    selection = _all(*entries, excluded=("a",))

    assert _tags(selection) == ["b", "b b_pkey"]
    assert [(item.entry.tag, item.reason) for item in selection.left_out] == [
        ("v", "it needs TABLE public.a"),
        ("w", "it needs VIEW public.v"),
    ]


def test_a_view_in_two_parts_is_one_thing() -> None:
    """Without the second part the first would show nulls; without the key the second cannot be made."""
    entries = (
        *_KEYED,
        entry(6, "VIEW", "v", "CREATE VIEW public.v AS SELECT NULL::integer AS id;"),
        entry(7, "RULE", "v _RETURN", "CREATE OR REPLACE VIEW public.v AS SELECT;", 1, 3, 6),
    )

    assert _tags(_some(*entries, tables=("v",))) == ["a", "a a_pkey", "v", "v _RETURN"]
    assert [item.entry.tag for item in _all(*entries, excluded=("a",)).left_out] == ["v"]


def test_an_excluded_parent_is_made_without_rows() -> None:
    child = entry(2, "TABLE", "c", "CREATE TABLE public.c () INHERITS (public.a);", 1)

    selection = _all(table(1, "a"), child, primary_key(3, "a", 1), excluded=("a",))

    assert _tags(selection) == ["a", "c"]
    assert selection.tables == {_name("c")}
    assert selection.structure_only == {_name("a")}


def test_comments_and_privileges_come_with_what_they_are_about() -> None:
    entries = (
        table(1, "a"),
        table(2, "b"),
        entry(3, "ACL", "TABLE a", "GRANT SELECT ON TABLE public.a TO x;", 1),
        entry(4, "ACL", "COLUMN a.id", "GRANT SELECT(id) ON TABLE public.a TO x;", 1, 3),
        entry(5, "ACL", "TABLE b", "GRANT SELECT ON TABLE public.b TO x;", 2),
    )

    assert _tags(_some(*entries, tables=("a",))) == ["a", "TABLE a", "COLUMN a.id"]
    assert _tags(_all(*entries, excluded=("b",))) == ["a", "TABLE a", "COLUMN a.id"]


@pytest.mark.parametrize("tag", ["DATABASE shop", 'DATABASE "shop"'])
def test_what_is_said_about_the_database_itself_stays_with_the_source(tag: str) -> None:
    entries = (
        entry(1, "DATABASE", "shop", "CREATE DATABASE shop;", namespace=None),
        entry(2, "COMMENT", tag, "COMMENT ON DATABASE shop IS 'x';", 1, namespace=None),
        table(3, "a"),
    )

    assert _tags(_all(*entries)) == ["a"]


def test_leaving_out_a_function_takes_its_users_along_and_says_which_tables_that_would_cost() -> None:
    entries = (
        entry(1, "FUNCTION", "f()", "CREATE FUNCTION public.f() …"),
        table(2, "a", 1),
        table(3, "b"),
        entry(4, "DEFAULT", "b id", "ALTER TABLE ONLY public.b ALTER COLUMN id SET DEFAULT public.f();", 3, 1),
        entry(5, "TRIGGER", "b t", "CREATE TRIGGER t BEFORE INSERT ON public.b EXECUTE FUNCTION public.f();", 3, 1),
        entry(6, "COMMENT", "FUNCTION f()", "COMMENT …", 1),
    )

    rest, broken = _all(*entries).leave_out({1: "it needs superuser"})

    assert _tags(rest) == ["b"]
    assert [item.entry.tag for item in broken] == ["a", "b id"]
    assert [item.entry.tag for item in rest.left_out] == ["f()", "a", "b id", "b t"]


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(SelectionError, match=r"no public\.gone, public\.lost"):
        _some(table(1, "a"), tables=("lost", "a", "gone"))


def test_a_definition_whose_table_cannot_be_told_is_a_named_error() -> None:
    with pytest.raises(ArchiveError, match="cannot tell what INDEX i belongs to"):
        _all(entry(1, "INDEX", "i", "CREATE INDEX i;"))
    with pytest.raises(ArchiveError, match="cannot tell what foreign key"):
        _all(table(1, "a"), entry(2, "FK CONSTRAINT", "a k", "ALTER TABLE ONLY public.a ADD CONSTRAINT k;"))


def test_a_table_is_told_by_its_definition_where_names_are_ambiguous() -> None:
    """`tab le tab` is constraint `le tab` of `tab`, or constraint `tab` of `tab le`."""
    entries = (
        entry(1, "TABLE", "tab", "CREATE TABLE public.tab ();"),
        entry(2, "TABLE", "tab le", 'CREATE TABLE public."tab le" ();'),
        entry(
            3, "CHECK CONSTRAINT", "tab le tab", 'ALTER TABLE public.tab\n    ADD CONSTRAINT "le tab" CHECK (x);', 1, 2
        ),
        entry(4, "CHECK CONSTRAINT", "tab le tab", 'ALTER TABLE public."tab le"\n    ADD CONSTRAINT tab CHECK (x);', 2),
    )
    graph = build_graph(archive(*entries))

    assert graph.subjects == {3: 1, 4: 2}
