"""Faults on order: which call of which method is to go wrong, and how.

A fault is written `METHOD@N:ACTION`: `write_page@2:ServerUnavailableError`. N counts calls from 1; `N+` means from
that call on, `*` every call. An action is the name of a DsyncError class, or one of

- `hang`: never answer;
- `exit`: the process ends as by kill -9;
- `crash`: an exception that is no DsyncError, with a text that must not leave the process;
- any other word: the connector is told and does it itself (`same-cursor`, `over-limit`, `partial`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass

from dsync.protocol.errors import OptionError, error_class

CRASH_TEXT = "the text of an unexpected exception may hold a record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One method's fault at the `first`-th call, or at all from there on."""

    method: str
    first: int
    and_later: bool
    action: str

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Raises OptionError where the text is not `METHOD@N:ACTION`."""
        place, colon, action = text.partition(":")
        method, at, count = place.partition("@")
        and_later = count.endswith("+") or count == "*"
        number = "1" if count == "*" else count.removesuffix("+")
        if not (method and at and colon and action and number.isdecimal() and int(number) > 0):
            raise OptionError(f"fault {text!r}: write METHOD@N:ACTION, for example write_page@2:ServerUnavailableError")
        return cls(method=method, first=int(number), and_later=and_later, action=action)

    def applies(self, call: int) -> bool:
        return call >= self.first if self.and_later else call == self.first


class Faults:
    """The faults of one connector, with a count of the calls to each of its methods."""

    def __init__(self, faults: Iterable[str] = ()) -> None:
        self._faults = [Fault.parse(text) for text in faults]
        self.calls: dict[str, int] = {}

    def add(self, text: str) -> None:
        """Order one more, counted from the calls that were made already."""
        fault = Fault.parse(text)
        first = fault.first + self.calls.get(fault.method, 0)
        self._faults.append(Fault(method=fault.method, first=first, and_later=fault.and_later, action=fault.action))

    def clear(self) -> None:
        self._faults.clear()

    async def reach(self, method: str) -> str:
        """Count a call and let its fault happen; returns an action that the caller carries out itself, or nothing."""
        call = self.calls[method] = self.calls.get(method, 0) + 1
        for fault in self._faults:
            if fault.method == method and fault.applies(call):
                return await _act(fault, call)
        return ""


async def _act(fault: Fault, call: int) -> str:
    if fault.action == "hang":
        await asyncio.Event().wait()
    if fault.action == "exit":
        os._exit(137)
    if fault.action == "crash":
        raise ValueError(CRASH_TEXT)
    cls = error_class(fault.action)
    if cls is not None:
        raise cls(f"{fault.method}: ordered to fail at call {call}")
    return fault.action
