"""For tests: the conformance kit for authors of connectors, and a connector without a server, with faults on order."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsync.sdk.testing.conformance import Conformance

__all__ = ["Conformance"]


def __getattr__(name: str) -> Any:
    # The kit needs pytest, which only tests have; connectors take faults on order from here at work, too.
    if name != "Conformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dsync.sdk.testing.conformance import Conformance

    return Conformance
