"""What a person should know about a schema before it is built: the contract's findings, made in one way."""

from __future__ import annotations

from dsync.sdk import types

Finding = types.Finding
Severity = types.Severity

__all__ = ["Finding", "Severity", "info", "stop", "warn"]


def stop(code: str, name: str, message: str, remedy: str = "") -> Finding:
    """Return a finding that forbids moving a row."""
    return Finding(code=code, severity=Severity.STOP, object=name, message=message, remedy=remedy)


def warn(code: str, name: str, message: str, remedy: str = "") -> Finding:
    """Return a finding about something that will differ at the sink."""
    return Finding(code=code, severity=Severity.WARNING, object=name, message=message, remedy=remedy)


def info(code: str, name: str, message: str, remedy: str = "") -> Finding:
    """Return a finding that nobody has to act on."""
    return Finding(code=code, severity=Severity.INFO, object=name, message=message, remedy=remedy)
