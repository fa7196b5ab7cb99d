"""`dsync doctor`: what would stop a sync or lose data, found without moving anything."""

from __future__ import annotations

import re
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal

from dsync.app.ends import meet
from dsync.app.found import find_flow, plan_of
from dsync.app.known import existing_store
from dsync.app.one_end import meet_one
from dsync.app.plan import planner_for
from dsync.app.requests import SyncRequest, default_parallel
from dsync.app.sync import spec_of
from dsync.coordinator.ends import End
from dsync.coordinator.plan import selected
from dsync.protocol.errors import DsyncError, SinkNotEmptyError
from dsync.protocol.types import CheckRequest, DescribeRequest, Finding, Role, SessionRequest, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedEnd:
    """Who was looked at."""

    role: Literal["source", "sink"]
    reference: str
    """Without secrets."""
    db_type: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    ends: tuple[ExaminedEnd, ...]
    findings: tuple[Finding, ...]

    def exit_code(self, *, strict: bool) -> int:
        """3 where a finding would stop a flow or lose data; with `strict` where one is a warning, too."""
        worst = max((finding.severity for finding in self.findings), default=Severity.INFO)
        return 3 if worst >= (Severity.WARNING if strict else Severity.STOP) else 0


async def doctor(request: SyncRequest) -> DoctorReport:
    """Examine a source, and a sink where the request names one.

    Raises:
        DsyncError: an end cannot be examined at all, or the request is wrong.
    """
    return await (_doctor_both(request) if request.sink else _doctor_source(request))


async def _doctor_source(request: SyncRequest) -> DoctorReport:
    async with meet_one(
        request.source, Role.SOURCE, attach=request.attach, allow_plaintext=request.allow_plaintext
    ) as one:
        end = one.end
        session = SessionRequest(
            flow=secrets.token_hex(8), run=secrets.token_hex(6), role=Role.SOURCE, parallel=default_parallel()
        )
        await end.open_session(session)
        findings: tuple[Finding, ...] = ()
        if end.serves("SchemaService"):
            names = await selected(end, request.selection)
            findings = await end.connector.check(CheckRequest(role=Role.SOURCE, namespaces=names))
            findings += (await end.connector.describe(DescribeRequest(namespaces=names))).findings
        return DoctorReport(ends=(_examined("source", one.display, end),), findings=findings)


async def _doctor_both(request: SyncRequest) -> DoctorReport:
    async with AsyncExitStack() as stack:
        store = stack.enter_context(existing_store(request.state))
        meeting = await stack.enter_async_context(meet(request))
        meeting.refuse_same_ends()
        spec = spec_of(request, meeting)
        ends = (
            _examined("source", spec.source.reference, meeting.source),
            _examined("sink", spec.sink.reference, meeting.sink),
        )
        findings: tuple[Finding, ...] = ()
        try:
            found = await find_flow(store, request, spec, meeting)
            findings = found.findings
            planner = await planner_for(meeting, spec, flow=found.flow)
            findings += await planner.check()
            findings += (await plan_of(found, planner)).findings
        except DsyncError as error:
            if not _is_finding(error):
                raise
            # What keeps it from being planned has mostly been found already, with better words.
            if not any(finding.severity is Severity.STOP for finding in findings):
                findings += (_finding_of(error),)
        return DoctorReport(ends=ends, findings=findings)


def _is_finding(error: DsyncError) -> bool:
    return error.exit_code == 3 or isinstance(error, SinkNotEmptyError)


def _finding_of(error: DsyncError) -> Finding:
    code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
    return Finding(code=code, severity=Severity.STOP, object="", message=str(error))


def _examined(role: Literal["source", "sink"], reference: str, end: End) -> ExaminedEnd:
    return ExaminedEnd(role=role, reference=reference, db_type=end.info.db_type, version=end.info.version)
