"""`NS=CONDITION`, where either side may have quotes and equals signs of its own."""

from __future__ import annotations

import pytest

from dsync.protocol.errors import RequestError
from dsync.protocol.namespaces import split_filters


@pytest.mark.parametrize(
    ("text", "pattern", "condition"),
    [
        ("orders=total > 100", "orders", "total > 100"),
        ("shop.orders = state = 'open' ", "shop.orders", "state = 'open'"),
        ('shop."a=b"=x=1', 'shop."a=b"', "x=1"),
        ('"say ""="""=y', '"say ""="""', "y"),
        ("audit_*=id=1\nOR id=2", "audit_*", "id=1\nOR id=2"),
    ],
)
def test_a_filter_is_split_at_the_first_sign_outside_of_quotes(text: str, pattern: str, condition: str) -> None:
    ((found, said),) = split_filters([text])
    assert (found.text, said) == (pattern, condition)


@pytest.mark.parametrize("text", ["", "orders", "=x", "orders=", "orders= ", '"orders=x', "orders:other=x"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        split_filters([text])
