"""What an older sink cannot read is written otherwise, or found; what merely looks like it is left alone."""

from __future__ import annotations

import pytest
from dsync_postgres.schema.downgrade import unknown_features, without_maintain, without_table_not_null

from tests.unit.postgres_schema.archives import entry


def test_not_null_of_inherited_columns_becomes_alter_table() -> None:
    definition = (
        "CREATE TABLE shop.dog (\n    NOT NULL id,\n    barks boolean DEFAULT (true) NOT NULL,\n"
        '    CONSTRAINT "x, y" NOT NULL "na,me",\n    CHECK ((id > 0))\n)\nINHERITS (shop.animal);'
    )

    assert without_table_not_null(definition, 16) == (
        "CREATE TABLE shop.dog (\n    barks boolean DEFAULT (true) NOT NULL,\n    CHECK ((id > 0))\n)\n"
        'INHERITS (shop.animal);\nALTER TABLE ONLY "shop"."dog" ALTER COLUMN id SET NOT NULL;'
        '\nALTER TABLE ONLY "shop"."dog" ALTER COLUMN "na,me" SET NOT NULL;'
    )
    assert without_table_not_null(definition, 18) == definition


@pytest.mark.parametrize(
    "definition",
    [
        'CREATE TABLE a.b (\n    id integer CONSTRAINT x NOT NULL,\n    "not" integer\n);',
        "CREATE TABLE a.b (\n    CONSTRAINT c CHECK ((id IS NOT NULL))\n);",
        "CREATE TABLE a.b (\n);",
        "CREATE TABLE a.b OF a.t;",
    ],
)
def test_other_tables_stay_as_they_are(definition: str) -> None:
    assert without_table_not_null(definition, 14) == definition


def test_a_table_of_nothing_but_such_columns_keeps_its_parentheses() -> None:
    changed = without_table_not_null("CREATE TABLE a.b (\n    NOT NULL id\n)\nINHERITS (a.c);", 16)

    assert changed == 'CREATE TABLE a.b ()\nINHERITS (a.c);\nALTER TABLE ONLY "a"."b" ALTER COLUMN id SET NOT NULL;'


@pytest.mark.parametrize(
    ("statement", "rest"),
    [
        ("GRANT SELECT,MAINTAIN,UPDATE ON TABLE a.b TO c;", "GRANT SELECT,UPDATE ON TABLE a.b TO c;"),
        ("GRANT MAINTAIN,UPDATE ON TABLE a.b TO c;", "GRANT UPDATE ON TABLE a.b TO c;"),
        (
            "REVOKE GRANT OPTION FOR SELECT,MAINTAIN ON TABLE a.b FROM c;",
            "REVOKE GRANT OPTION FOR SELECT ON TABLE a.b FROM c;",
        ),
        ("GRANT MAINTAIN ON TABLE a.b TO c;", None),
        ("GRANT ALL ON TABLE a.maintain TO maintain;", "GRANT ALL ON TABLE a.maintain TO maintain;"),
        ("GRANT UPDATE(maintain) ON TABLE a.b TO c;", "GRANT UPDATE(maintain) ON TABLE a.b TO c;"),
    ],
)
def test_the_privilege_that_16_does_not_know_is_taken_out(statement: str, rest: str | None) -> None:
    assert without_maintain(statement, 16) == rest
    assert without_maintain(statement, 17) == statement


@pytest.mark.parametrize(
    ("desc", "definition", "since"),
    [
        ("CONSTRAINT", "ALTER TABLE ONLY a.b\n    ADD CONSTRAINT c UNIQUE NULLS NOT DISTINCT (id);", 15),
        ("INDEX", "CREATE UNIQUE INDEX i ON a.b USING btree (id) NULLS NOT DISTINCT;", 15),
        ("CHECK CONSTRAINT", "ALTER TABLE a.b\n    ADD CONSTRAINT c CHECK ((id > 0)) NOT ENFORCED;", 18),
        ("FK CONSTRAINT", "ALTER TABLE a.b ADD CONSTRAINT c FOREIGN KEY (i) REFERENCES a.d(i) NOT ENFORCED;", 18),
        (
            "FK CONSTRAINT",
            "ALTER TABLE a.b ADD CONSTRAINT c FOREIGN KEY (i, PERIOD p) REFERENCES a.d(i, PERIOD p);",
            18,
        ),
        ("CONSTRAINT", "ALTER TABLE ONLY a.b ADD CONSTRAINT c PRIMARY KEY (id, during WITHOUT OVERLAPS);", 18),
        ("CONSTRAINT", "ALTER TABLE a.b ADD CONSTRAINT c NOT NULL id NOT VALID;", 18),
        ("TABLE", "CREATE TABLE a.b (\n    id integer,\n    g integer GENERATED ALWAYS AS ((id * 2))\n);", 18),
        ("TABLE", "CREATE TABLE a.b (\n    id integer NOT NULL NO INHERIT\n);", 18),
    ],
)
def test_a_feature_is_found_where_it_is_not_known(desc: str, definition: str, since: int) -> None:
    one = entry(1, desc, "x", definition)

    assert len(unknown_features(one, since - 1)) == 1
    assert f"({since})" in unknown_features(one, since - 1)[0]
    assert unknown_features(one, since) == []


@pytest.mark.parametrize(
    ("desc", "definition"),
    [
        ("CHECK CONSTRAINT", "ALTER TABLE a.b ADD CONSTRAINT c CHECK ((NOT enforced));"),
        ("FK CONSTRAINT", "ALTER TABLE a.b ADD CONSTRAINT c FOREIGN KEY (period) REFERENCES a.d(period, x);"),
        ("CONSTRAINT", "ALTER TABLE a.b ADD CONSTRAINT c EXCLUDE USING gist (r WITH &&) WHERE ((id IS NOT NULL));"),
        ("TABLE", "CREATE TABLE a.b (\n    g integer GENERATED ALWAYS AS ((id * 2)) STORED NOT NULL\n);"),
        ("TABLE", "CREATE TABLE a.b (\n    CONSTRAINT c CHECK ((id IS NOT NULL)) NO INHERIT\n);"),
        ("TABLE", "CREATE TABLE a.b (\n    t text DEFAULT 'GENERATED ALWAYS AS (x)'::text\n);"),
        ("FUNCTION", "CREATE FUNCTION a.f() RETURNS text LANGUAGE sql AS $$SELECT 'NOT ENFORCED'$$;"),
    ],
)
def test_what_merely_looks_like_a_feature_is_none(desc: str, definition: str) -> None:
    assert unknown_features(entry(1, desc, "x", definition), 14) == []
