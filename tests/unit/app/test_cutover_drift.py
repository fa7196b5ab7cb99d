"""Two schemas side by side: what is equal is not named, and what loses data is told from what does not."""

from __future__ import annotations

from dsync.app.cutover_drift import Drift, compare_schemas
from dsync.protocol.types import SchemaObject


def _object(kind: str, name: str, definition: str = "", namespace: str = "shop.orders") -> SchemaObject:
    return SchemaObject(kind=kind, namespace=namespace, name=name, definition=definition)


SOURCE = [
    _object("table", ""),
    _object("column", "id", "bigint"),
    _object("column", "total", "numeric(10,2)"),
    _object("default", "id", "nextval('shop.orders_id_seq'::regclass)"),
    _object("foreign key", "to_customer", "FOREIGN KEY (customer) REFERENCES shop.customers(id)"),
    _object("view", "shop.large", "id bigint", namespace=""),
    _object("view query", "shop.large", "SELECT\n id FROM x", namespace=""),
]


def _differing(sink: list[SchemaObject], *, same_version: bool = True, **targets: str) -> list[Drift]:
    return compare_schemas(SOURCE, sink, targets, same_version=same_version)


def test_equal_schemas_do_not_differ() -> None:
    assert _differing(list(reversed(SOURCE))) == []
    broken = [*SOURCE[:-1], _object("view query", "shop.large", "SELECT id\nFROM x", namespace="")]
    assert _differing(broken) == []


def test_tables_under_other_names_are_held_against_these() -> None:
    """Also where a definition names another table."""
    targets = {"shop.orders": "new.orders", "shop.customers": "new.clients"}
    sink = [
        SchemaObject(
            kind=item.kind,
            namespace=targets.get(item.namespace, item.namespace),
            name=item.name,
            definition=item.definition.replace("shop.customers", "new.clients"),
        )
        for item in SOURCE
        if item.kind != "default"
    ]
    found = compare_schemas(SOURCE, sink, targets, same_version=True)
    assert [(item.kind, item.object) for item in found] == [("default", "new.orders.id")]


def test_what_is_missing_or_of_another_type_loses_data_and_the_rest_does_not() -> None:
    sink = [
        _object("table", ""),
        _object("column", "total", "numeric(8,2)"),
        _object("default", "id", "1"),
        _object("index", "own", "USING btree (id)"),
        _object("table", "", namespace="others.table"),
    ]
    found = {(item.kind, item.object): item for item in _differing(sink)}
    assert {key for key, item in found.items() if item.is_unsafe} == {
        ("column", "shop.orders.id"),
        ("column", "shop.orders.total"),
    }
    assert found["column", "shop.orders.total"].what == "numeric(10,2) at the source, numeric(8,2) at the sink"
    assert found["default", "shop.orders.id"].what.endswith("1 at the sink")
    assert found["index", "shop.orders.own"].what == "only at the sink"
    assert found["view", "shop.large"].what == "missing at the sink"
    assert ("view query", "shop.large") not in found
    assert ("table", "others.table") not in found
    (whole,) = compare_schemas(SOURCE[:1], [], {}, same_version=True)
    assert whole.is_unsafe


def test_queries_are_held_against_each_other_on_one_version_only() -> None:
    """Every few versions print them in other words."""
    sink = [*SOURCE[:-1], _object("view query", "shop.large", "SELECT x.id FROM x", namespace="")]
    assert _differing(sink, same_version=False) == []
    (drift,) = _differing(sink)
    assert (drift.kind, drift.what, drift.is_unsafe) == ("view query", "another query", False)
