"""Every check that fits what a connector declares, tried one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from dsync.conformance.check import Check
from dsync.conformance.checks import CHECKS
from dsync.conformance.options import ExamineOptions
from dsync.conformance.outcomes import FailedError, Outcome, SkippedError
from dsync.conformance.report import CheckResult, Report
from dsync.conformance.subject import Subject
from dsync.conformance.watched import told
from dsync.protocol.errors import DsyncError, MissingObjectError, RequestError, UnsupportedError
from dsync.protocol.interface import Connector, services_of
from dsync.protocol.types import Extensions, PlanRequest

OWN_RECORDS = frozenset({"info", "write", "updates", "ids", "ledger"})
"""Groups that send records of the kit's own alone: what a connector says of those may be shown."""


def _ignore(result: CheckResult) -> None:
    """Nobody asked to be told."""


async def examine(
    connector: Connector,
    options: ExamineOptions | None = None,
    *,
    on_result: Callable[[CheckResult], None] = _ignore,
) -> Report:
    """Examine a connector; it stays open. `on_result` is told of each check as it comes to its end.

    Raises:
        RequestError: the options name a check that there is not, or a namespace.
        DsyncError: it does not even say who it is.
    """
    options = options or ExamineOptions()
    require_known(options.only)
    try:
        info = await connector.get_info()
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{error}: it serves no adiom.v1.ConnectorService, so there is no connector to examine; is this the port of"
            " one, and not of a transform?"
        ) from error
    extensions = await connector.get_extensions()
    if extensions != Extensions() and not extensions.services:
        # In process, what a connector's class overrides is what it serves.
        extensions = dataclasses.replace(extensions, services=services_of(connector))
    subject = Subject(connector, info, extensions, options)
    if info.source is not None:
        await _require_found(subject)
    results = []
    left_over = 0
    try:
        for check in CHECKS.values():
            if options.wants(check.id):
                results.append(await _try(check, subject))
                on_result(results[-1])
    finally:
        left_over = await _clean_up(subject)
    return Report(info=info, extensions=extensions, results=tuple(results), left_over=left_over)


def require_known(only: frozenset[str]) -> None:
    """Raises RequestError where a name is neither a check's nor a group's."""
    known = {*CHECKS, *(check.group for check in CHECKS.values())}
    unknown = sorted(only - known)
    if unknown:
        raise RequestError(f"there is no check {', '.join(unknown)}; docs/conformance.md lists them")


async def _require_found(subject: Subject) -> None:
    """Raises RequestError where a namespace that was named is none: that is no fault of the connector."""
    for name in subject.options.namespaces:
        try:
            await subject.connector.generate_plan(PlanRequest(namespaces=(name,)))
        except (MissingObjectError, RequestError) as error:
            raise RequestError(f"{name}: {told(error)}; name a namespace that there is") from error
        except DsyncError:
            # What else goes wrong is for the checks to say.
            return


async def _try(check: Check, subject: Subject) -> CheckResult:
    started = time.monotonic()

    def ended(outcome: Outcome, *, note: str = "", expected: str = "", seen: str = "") -> CheckResult:
        elapsed_s = time.monotonic() - started
        return CheckResult(check=check, outcome=outcome, note=note, expected=expected, seen=seen, elapsed_s=elapsed_s)

    try:
        async with asyncio.timeout(subject.options.check_s):
            for need in check.needs:
                if reason := await need.missing(subject):
                    return ended(Outcome.SKIPPED, note=reason)
            return ended(Outcome.PASSED, note=await check.run(subject) or "")
    except SkippedError as skipped:
        return ended(Outcome.SKIPPED, note=str(skipped))
    except FailedError as failed:
        return ended(Outcome.FAILED, expected=failed.expected, seen=failed.seen)
    except TimeoutError:
        limit = f"an answer to every call within {subject.options.check_s:g} s"
        return ended(Outcome.FAILED, expected=limit, seen=f"{subject.connector.last_call} was called, and no end")
    except DsyncError as error:
        said = f": {error}" if check.group in OWN_RECORDS else ""
        return ended(Outcome.FAILED, expected="no call of this check fails", seen=told(error) + said)
    except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw must not cost the rest of the report
        # Its text may quote a record.
        place = f"{type(error).__name__} at {_place(error)}, after {subject.connector.last_call}"
        return ended(Outcome.FAILED, expected="answers of the form that the protocol gives them", seen=place)


def _place(error: Exception) -> str:
    """Where in the kit an answer could not be dealt with."""
    (*_, frame) = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "conformance" in Path(frame.filename).parts
    ]
    return f"{Path(frame.filename).name}:{frame.lineno}"


async def _clean_up(subject: Subject) -> int:
    left_over = 0
    if subject.options.scratch and subject.info.sink is not None:
        left_over = await subject.scratch.clear()
    let_go = [
        *([subject.connector.release_changes] if subject.frames.has_begun else []),
        *([subject.connector.forget_flow] if subject.has_ledger else []),
    ]
    for forget in let_go:
        with contextlib.suppress(DsyncError, TimeoutError):
            async with asyncio.timeout(subject.options.check_s):
                await forget(subject.flow)
    return left_over
