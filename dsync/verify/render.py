"""The text form of a report."""

from __future__ import annotations

import json

from dsync.verify.report import Difference, Kind, NamespaceReport, VerifyReport


def render(report: VerifyReport) -> str:
    """What differs, namespace by namespace, then a summary; no line where a namespace agrees."""
    blocks = [_namespace(namespace) for namespace in report.namespaces if _is_worth_a_line(namespace)]
    return "\n".join([*blocks, _summary(report)])


def _is_worth_a_line(namespace: NamespaceReport) -> bool:
    return bool(namespace.differences or namespace.unlisted or namespace.notes)


def _summary(report: VerifyReport) -> str:
    total = sum(namespace.stands_for for namespace in report.namespaces)
    differing = sum(namespace.stands_for for namespace in report.namespaces if not namespace.is_equal)
    if not total:
        verdict = "nothing to compare"
    elif differing:
        verdict = f"{differing:,} of {_counted(total, 'namespace')} {'differs' if differing == 1 else 'differ'}"
    else:
        verdict = f"{_counted(total, 'namespace')} {'agrees' if total == 1 else 'agree'}"
    changed = report.counts.changed_since
    apart = f"; {_counted(changed, 'row')} may have changed since the copy" if changed else ""
    rows = (
        _counted(report.source_rows, "row")
        if report.source_rows == report.target_rows
        else f"{_counted(report.source_rows, 'row')} at the source, {report.target_rows:,} at the target"
    )
    how = ", ".join(str(method) for method in report.methods)
    view = "live" if report.live else "under the copy's snapshot"
    return f"{verdict}{apart}: {rows}, {how}, {view}, {report.elapsed_s:.1f} s"


def _namespace(namespace: NamespaceReport) -> str:
    name = namespace.source if namespace.source == namespace.target else f"{namespace.source} → {namespace.target}"
    counts = namespace.counts
    parts = [
        f"{count:,} {text}"
        for count, text in (
            (counts.missing, "missing"),
            (counts.extra, "extra"),
            (counts.different, "different"),
            (counts.changed_since, "may have changed since the copy"),
        )
        if count
    ]
    head = f"{name}: {', '.join(parts)}" if parts else name
    lines = [head, *(f"  note: {note}" for note in namespace.notes)]
    lines += [f"  {_difference(namespace, difference)}" for difference in namespace.differences]
    if namespace.unlisted:
        lines.append(f"  … and {_counted(namespace.unlisted, 'row')} more")
    return "\n".join(lines)


def _difference(namespace: NamespaceReport, difference: Difference) -> str:
    if difference.kind in (Kind.TYPE, Kind.COUNT, Kind.NAMESPACE):
        return f"{difference.kind}: {difference.detail}"
    kind = f"{difference.kind} (may have changed since the copy)" if difference.changed_since else difference.kind
    if namespace.key:
        values = ", ".join(f"{k}={printable(v)}" for k, v in zip(namespace.key, difference.key, strict=False))
    else:
        values = f"{_counted(difference.rows, 'row')} with hash {''.join(difference.key)}"
    return f"{kind}: {values}{_columns(difference)}"


def _columns(difference: Difference) -> str:
    if not difference.columns:
        return f" ({difference.detail})" if difference.detail else ""
    shown = [
        column.column
        if column.source is None and column.target is None
        else f"{column.column} {_value(column.source)} → {_value(column.target)}"
        for column in difference.columns
    ]
    return f" in {', '.join(shown)}"


def _value(text: str | None) -> str:
    return "NULL" if text is None else printable(text)


def printable(text: str) -> str:
    """A value as it is, or quoted where it would mislead a reader (blanks, NULL) or a terminal (control characters)."""
    is_plain = text.isprintable() and " " not in text and text not in ("", "NULL")
    return text if is_plain else json.dumps(text, ensure_ascii=not text.isprintable())


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
