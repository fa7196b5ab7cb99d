"""The sample shop, and the watched command."""

from __future__ import annotations

from dsync.quickstart.sample import create_shop
from tests.integration.wrong_input.conftest import dsync

__all__ = ["dsync", "shop"]


def shop(uri: str) -> None:
    """Every kind of object, without the policies that hide rows from a reader."""
    create_shop(uri, rows=3000, row_security=False)
