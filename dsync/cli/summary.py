"""What a sync has done, as a short text with exact counts and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsync.cli.answer import Answer
from dsync.cli.text import counted, duration, moment, throughput

if TYPE_CHECKING:
    from dsync.app.status import DeadLetterGroup
    from dsync.app.sync import SyncOutcome

_NAMED = 20


def sync_answer(outcome: SyncOutcome, reasons: Sequence[DeadLetterGroup] = ()) -> Answer:
    """The answer to a sync that came to its end."""
    facts = _facts(outcome)
    lines = [_head(outcome, facts), *_troubles(outcome, facts, reasons)]
    details = ""
    if outcome.verify is not None:
        # Whoever has a report has paid for the import.
        from dsync.verify import render

        *differences, verdict = render(outcome.verify).splitlines()
        lines.append(f"verify: {verdict}")
        details = "\n".join(differences)
    lines += _kept(outcome)
    return Answer(
        summary="\n".join(lines),
        details=details,
        result={
            **facts,
            "name": outcome.flow_name or None,
            "run_number": outcome.run.number,
            "moved_nothing": outcome.result is None,
            "finished_at": outcome.run.finished_at.isoformat() if outcome.run.finished_at else None,
            "dead_letter_reasons": [
                {"namespace": group.namespace, "reason": group.reason, "records": group.records} for group in reasons
            ],
            "verify": outcome.verify.as_json() if outcome.verify is not None else None,
        },
        exit_code=outcome.exit_code,
        problem=_problem(outcome),
    )


def _facts(outcome: SyncOutcome) -> dict[str, Any]:
    """The result as `RunResult.as_json` gives it; of an earlier run as it was stored then."""
    if outcome.result is not None:
        return outcome.result.as_json()
    return {
        "flow": outcome.flow,
        "run": outcome.run.run,
        "rows": 0,
        "bytes": 0,
        "consistent": outcome.run.consistent,
        "dead_letters": 0,
        "namespaces": [],
        "failed_steps": [],
        **dict(outcome.run.summary or {}),
        "moved_rows": 0,
        "moved_bytes": 0,
    }


def _head(outcome: SyncOutcome, facts: Mapping[str, Any]) -> str:
    size = ", ".join(
        (
            counted(len(facts["namespaces"]), "table"),
            counted(facts["rows"], "row"),
            counted(facts["bytes"], "byte"),
        )
    )
    if outcome.result is None:
        title = outcome.flow_name or outcome.flow
        if outcome.run.phase.value == "cancelled":
            from dsync.app.known import resume_command

            return (
                f"flow {title} was cancelled at {moment(outcome.run.finished_at)}, with {size} there; nothing moved"
                f" (`{resume_command(title, outcome.state)}` or --again goes on where it was)"
            )
        return (
            f"flow {title} finished at {moment(outcome.run.finished_at)}: {size}; nothing moved"
            " (--again reads again what may have changed)"
        )
    if outcome.result.consistent_at is not None and not outcome.result.moved_rows:
        tables, applied = counted(len(facts["namespaces"]), "table"), counted(outcome.result.changes, "change")
        return f"caught up: {applied} applied to {tables} in {duration(outcome.result.elapsed_s)}"
    elapsed_s = outcome.result.elapsed_s
    speed = throughput(outcome.result.moved_rows, outcome.result.moved_bytes, elapsed_s)
    head = f"copied {size} in {duration(elapsed_s)}: {speed}"
    if outcome.result.moved_rows < facts["rows"]:
        head += f"; {counted(outcome.result.moved_rows, 'row')} of them now"
    if outcome.result.consistent_at is not None:
        head += f"; caught up: {counted(outcome.result.changes, 'change')} applied"
    return head


def _kept(outcome: SyncOutcome) -> list[str]:
    """What the source keeps for a flow that has ended for now, and what lets go of it."""
    kept = outcome.result.kept_at_source if outcome.result is not None else ""
    if not kept:
        return []
    return [
        f"the source keeps its log for {kept} until the same command goes on;"
        f" `dsync reset {outcome.flow_name or outcome.flow}` lets go of it"
    ]


def _troubles(outcome: SyncOutcome, facts: Mapping[str, Any], reasons: Sequence[DeadLetterGroup]) -> list[str]:
    """What a person has to look at, each with what repairs it."""
    lines = []
    if facts["dead_letters"]:
        from dsync.app.known import letters_command

        command = letters_command(outcome.flow_name or outcome.flow, outcome.state)
        lines.append(f"dead letters: {counted(facts['dead_letters'], 'record')} refused (`{command}` lists them)")
        lines += [
            f"  {group.namespace}: {counted(group.records, 'record')}: {group.reason}" for group in reasons[:_NAMED]
        ]
        lines += _more(len(reasons), "reason")
    stopped = [item for item in facts["namespaces"] if item["state"] in ("stopped", "changed")]
    for item in stopped[:_NAMED]:
        word = "stopped" if item["state"] == "stopped" else "changed while it was copied"
        lines.append(f"{word}: {item['namespace']}: {item['reason']}")
    lines += _more(len(stopped), "table")
    failed = facts["failed_steps"]
    lines += [f"not done: {step['step']}: {step['reason']}" for step in failed[:_NAMED]]
    lines += _more(len(failed), "step")
    if stopped or failed:
        lines.append("→ the same command with --again repairs it, reading again what may have changed")
    return lines


def _more(count: int, noun: str) -> list[str]:
    return [f"  … and {counted(count - _NAMED, f'more {noun}')}"] if count > _NAMED else []


def _problem(outcome: SyncOutcome) -> str:
    if outcome.result is None and outcome.run.phase.value == "cancelled":
        return "the flow was cancelled before it was done"
    return {
        4: "verification found differences",
        5: "the sink refused some records",
        6: "the copy is not consistent or not complete",
    }.get(outcome.exit_code, "")
