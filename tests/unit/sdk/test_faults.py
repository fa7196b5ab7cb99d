"""Faults on order happen at the call they were ordered for."""

from __future__ import annotations

import pytest

from dsync.protocol.errors import OptionError, SinkFullError, ThrottledError
from dsync.sdk.testing.faults import Faults


async def outcomes(faults: Faults, calls: int) -> list[str]:
    found = []
    for _ in range(calls):
        try:
            found.append(await faults.reach("m"))
        except (SinkFullError, ThrottledError) as exc:
            found.append(type(exc).__name__)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m@2:SinkFullError", ["", "SinkFullError", ""]),
        ("m@2+:SinkFullError", ["", "SinkFullError", "SinkFullError"]),
        ("m@*:same-cursor", ["same-cursor"] * 3),
        ("other@1:SinkFullError", ["", "", ""]),
    ],
)
async def test_a_fault_happens_at_its_call(text: str, expected: list[str]) -> None:
    """Counted from one."""
    assert await outcomes(Faults([text]), 3) == expected


async def test_a_fault_ordered_later_counts_from_then() -> None:
    """A test orders it when the flow has come to where it is to hurt."""
    faults = Faults(["m@1:ThrottledError"])
    assert await outcomes(faults, 2) == ["ThrottledError", ""]
    faults.add("m@2:SinkFullError")
    assert await outcomes(faults, 3) == ["", "SinkFullError", ""]
    faults.clear()
    assert faults.calls == {"m": 5}


@pytest.mark.parametrize("text", ["", "m", "m:x", "m@:x", "m@0:x", "m@1:", "m@x:y", "@1:x"])
def test_a_fault_that_cannot_be_read_is_refused(text: str) -> None:
    """A typing error in a test must not make it pass."""
    with pytest.raises(OptionError, match="METHOD@N:ACTION"):
        Faults([text])
