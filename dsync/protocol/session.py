"""Which session a call belongs to, where several coordinators share one plug-in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextvars import ContextVar

from dsync.protocol.types import SessionRequest

KEY = "dsync-session-bin"
"""The metadata that carries it."""

current_session: ContextVar[str] = ContextVar("current_session", default="")
"""Of the call that is being served; empty: it belongs to none."""


def session_name(request: SessionRequest) -> str:
    """A run's own name, by which a later life of its coordinator finds what is held for it; else one for the moment."""
    if request.flow and request.run:
        return f"{request.flow}/{request.run}/{request.role.name}"
    return secrets.token_hex(8)


def session_of(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    value = dict(metadata).get(KEY, b"")
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
