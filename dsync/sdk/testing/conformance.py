"""The conformance kit in pytest: an author's connector takes the exam in process and over gRPC.

The author subclasses `Conformance` and says how to open the connector; every check is a test of its own. A connector is
examined once in each way, and the tests report what became of their check.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from dsync.conformance import CHECKS, CheckResult, ExamineOptions, Outcome, Report, examine
from dsync.protocol.channel import Deadlines, Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.inline import InlineConnector
from dsync.protocol.interface import Connector
from dsync.sdk.serve import ServeOptions, serving

Way = Literal["inline", "grpc"]
_CALL_S = 60.0


class Conformance:
    """Subclass it in a test module, under a name that pytest collects (`TestMyConnector`)."""

    namespaces: ClassVar[tuple[str, ...]] = ()
    """Read these, which hold records; empty: what the source names by itself."""
    scratch: ClassVar[str] = ""
    """Write into this one; empty: nothing is written."""
    gaps: ClassVar[Mapping[str, str]] = {}
    """Checks that fail, and why that is known. They have to: one that passes is a gap that was closed."""
    limits: ClassVar[ExamineOptions] = ExamineOptions()
    """How much is read, and how long is waited; namespaces and scratch are those above."""

    def connector(self, folder: Path) -> AbstractAsyncContextManager[Connector]:
        """The connector, with its records where they should be; closed with the block.

        `folder` is empty, and removed afterwards. Called once for each way in which the connector is reached.
        """
        raise NotImplementedError(
            f"{type(self).__name__} says how its connector is opened: def connector(self, folder)"
        )

    def reader(self, folder: Path) -> AbstractAsyncContextManager[Connector | None]:
        """Reads the scratch namespace back, where the connector is no source; opened after it, in the same folder."""
        return _nobody()

    async def change(self, number: int) -> None:
        """Make so many changes to the first of the namespaces, past the protocol, as an application does.

        Without it changes are made by writing to the scratch namespace, where the connector is source and sink.
        """
        raise NotImplementedError

    # -------------------------------------------------------------- the tests

    @pytest.mark.parametrize("way", ["inline", "grpc"])
    @pytest.mark.parametrize("check", list(CHECKS))
    def test_conformance(self, check: str, way: Way) -> None:
        """The promise that the check's id stands for; docs/conformance.md says which."""
        result = self._report(way).result(check)
        if check in self.gaps:
            assert result.outcome is Outcome.FAILED, f"{check} does not fail any more: take it out of `gaps`"
            pytest.xfail(self.gaps[check])
        if result.outcome is Outcome.SKIPPED:
            pytest.skip(result.note)
        assert result.outcome is Outcome.PASSED, _told(result)

    @classmethod
    def _report(cls, way: Way) -> Report:
        """What the connector is like, found out when it is first asked for."""
        if "_reports" not in vars(cls):
            cls._reports = {}
        if way not in cls._reports:
            try:
                with tempfile.TemporaryDirectory(prefix="dsync-kit-") as folder:
                    cls._reports[way] = asyncio.run(cls()._examined(way, Path(folder)))
            except Exception as error:  # noqa: BLE001 - each test of the class raises it, and none tries again
                cls._reports[way] = error
        found = cls._reports[way]
        if isinstance(found, Exception):
            raise found
        return found

    _reports: ClassVar[dict[Way, Report | Exception]]

    async def _examined(self, way: Way, folder: Path) -> Report:
        async with self.connector(folder) as connector, self.reader(folder) as reader:
            options = dataclasses.replace(
                self.limits,
                namespaces=self.namespaces,
                scratch=self.scratch,
                reader=reader and InlineConnector(reader, name="reader"),
                change=self.change if type(self).change is not Conformance.change else None,
            )
            if way == "inline":
                return await examine(InlineConnector(connector, name=type(connector).__name__), options)
            async with _served(connector) as remote:
                return await examine(remote, options)


@asynccontextmanager
async def _served(connector: Connector) -> AsyncIterator[Connector]:
    """The connector as somebody on another machine reaches it."""
    async with serving(connector, ServeOptions(address="127.0.0.1:0", grace_s=0)) as address:
        deadlines = Deadlines(data_s=_CALL_S, work_s=_CALL_S)
        remote = RemoteConnector(Target(address=address, name=type(connector).__name__), deadlines=deadlines)
        try:
            yield remote
        finally:
            await remote.close()


@asynccontextmanager
async def _nobody() -> AsyncIterator[None]:
    yield None


def _told(result: CheckResult) -> str:
    check = result.check
    return (
        f"{check.id}: {check.what}\n  expected   {result.expected}\n  seen       {result.seen}\n"
        f"  why        {check.why}\n  stands on  {check.stands_on}"
    )
