"""Log lines of a plug-in's process on their way into ours."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import structlog

from dsync.sdk.redaction import Redactor

_LONGEST_LINE_BYTES = 16 * 1024
_CHUNK_BYTES = 64 * 1024
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_log = structlog.get_logger("dsync.plugins")


async def forward_logs(stream: asyncio.StreamReader, *, plugin: str, redactor: Redactor) -> None:
    """Log each line again under our own settings, until the stream ends.

    What is no JSON is what a library has printed: it is shown as text, with secrets replaced, as far as they are
    known here.
    """
    pending = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            _forward(line, plugin, redactor)
        # A line without an end must not fill our memory.
        pending = pending[:_LONGEST_LINE_BYTES]
    if pending:
        _forward(pending, plugin, redactor)


def _forward(line: bytes, plugin: str, redactor: Redactor) -> None:
    text = redactor.text(line[:_LONGEST_LINE_BYTES].decode("utf-8", "replace")).strip()
    if not text:
        return
    fields = _fields(text)
    if fields is None:
        _log.warning("plugin_printed", plugin=plugin, text=text)
        return
    level = _LEVELS.get(str(fields.pop("level", "info")), logging.INFO)
    event = str(fields.pop("event"))
    fields.pop("timestamp", None)
    fields["plugin"] = plugin
    _log.log(level, event, **fields)


def _fields(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "event" in fields else None
