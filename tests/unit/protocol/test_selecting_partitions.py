"""Choosing a partitioned namespace chooses its partitions."""

from __future__ import annotations

from dsync.protocol.namespaces import select

NAMES = ["shop.orders", "shop.orders_2024", "shop.orders_2024_01", "shop.other"]
PARENTS = {"shop.orders_2024": "shop.orders", "shop.orders_2024_01": "shop.orders_2024"}


def test_partitions_of_partitions_come_along() -> None:
    assert list(select(NAMES, ["shop.orders"], parents=PARENTS)) == NAMES[:3]


def test_a_partition_can_be_chosen_alone() -> None:
    assert list(select(NAMES, ["shop.orders_2024_01"], parents=PARENTS)) == ["shop.orders_2024_01"]


def test_leaving_a_partitioned_namespace_out_leaves_its_partitions_out() -> None:
    assert list(select(NAMES, [], ["orders"], parents=PARENTS)) == ["shop.other"]
