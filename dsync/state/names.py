"""The names of the flows in a state, for a shell that completes them: read in milliseconds, or not at all."""

from __future__ import annotations

import contextlib
import sqlite3

from dsync.protocol.errors import DsyncError
from dsync.state.location import ServerPlace, parse_location

_BUSY_S = 0.2


def flow_names(location: str = "") -> tuple[tuple[str, str], ...]:
    """Id and name (or nothing) of each flow, the newest first; nothing where the state cannot be read at once.

    Past the store on purpose: that brings SQLAlchemy, migrates what is older and waits for who writes, none of which
    anybody expects of a key press. A state on a server is not asked either.
    """
    try:
        path = parse_location(location or None)
    except DsyncError:
        return ()
    if isinstance(path, ServerPlace) or not path.is_file():
        return ()
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
    except sqlite3.Error:
        return ()
    with contextlib.closing(connection):
        try:
            found = connection.execute("SELECT flow, name FROM flows ORDER BY created_at DESC").fetchall()
        except sqlite3.Error:
            return ()
    return tuple((str(flow), str(name or "")) for flow, name in found)
