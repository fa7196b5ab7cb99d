"""The checks, by the part of the protocol that they are about."""

from collections.abc import Mapping
from types import MappingProxyType

from dsync.conformance.check import GROUPS, Check, registered
from dsync.conformance.checks import (
    changes,
    checksum,
    handshake,
    ids,
    ledger,
    lookup,
    page_service,
    pages,
    plan,
    plans,
    schema,
    stream,
    updates,
    write,
)

CHECKS: Mapping[str, Check] = MappingProxyType(
    {check.id: check for group in GROUPS for check in registered.values() if check.group == group}
)
"""Every check by its id, in the order in which they are tried."""

__all__ = [
    "CHECKS",
    "changes",
    "checksum",
    "handshake",
    "ids",
    "ledger",
    "lookup",
    "page_service",
    "pages",
    "plan",
    "plans",
    "schema",
    "stream",
    "updates",
    "write",
]
