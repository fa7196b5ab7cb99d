"""Choosing a partitioned namespace chooses its partitions."""

from __future__ import annotations

import pytest

from dsync.protocol.errors import RequestError
from dsync.protocol.namespaces import Selection, select

NAMES = ["shop.orders", "shop.orders_2024", "shop.orders_2024_01", "shop.other"]
PARENTS = {"shop.orders_2024": "shop.orders", "shop.orders_2024_01": "shop.orders_2024"}


def test_partitions_of_partitions_come_along() -> None:
    assert list(select(NAMES, ["shop.orders"], parents=PARENTS)) == NAMES[:3]


def test_a_partition_can_be_chosen_alone() -> None:
    assert list(select(NAMES, ["shop.orders_2024_01"], parents=PARENTS)) == ["shop.orders_2024_01"]


def test_everything_cannot_be_left_out() -> None:
    with pytest.raises(RequestError, match="excluded too"):
        select(NAMES, ["orders"], ["orders*"], parents=PARENTS)


def test_what_is_left_out_must_exist() -> None:
    """A pattern that is misspelt would let through what it was to keep back."""
    with pytest.raises(RequestError, match=r"'secrets' matches nothing .*--exclude"):
        select(NAMES, [], ["secrets"], parents=PARENTS)


def test_what_is_left_out_need_not_be_among_what_is_named() -> None:
    assert list(select(NAMES, ["orders"], ["other"], parents=PARENTS)) == NAMES[:3]


@pytest.mark.parametrize(
    ("include", "exclude", "said"),
    [(("re:(",), (), "not a regular expression"), ((), ('"a',), "quotes"), ((), ("a:b",), "has no name at the sink")],
)
def test_patterns_are_read_before_there_is_anything_to_select_from(
    include: tuple[str, ...], exclude: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        Selection(include=include, exclude=exclude)


def test_leaving_a_partitioned_namespace_out_leaves_its_partitions_out() -> None:
    assert list(select(NAMES, [], ["orders"], parents=PARENTS)) == ["shop.other"]
