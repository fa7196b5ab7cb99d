"""A process that applies one frame, to be killed on the way: `python -m … URI FENCE ROWS FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dsync_postgres.conninfo import Target
from dsync_postgres.options import PostgresOptions
from dsync_postgres.sessions import Sessions
from dsync_postgres.sink.side import SinkSide

from dsync.sdk import PluginContext, types
from tests.integration.postgres_apply.frames import Changes, relation


def frame_of(rows: int) -> Changes:
    """Rows of a table without key: applied twice they would be there twice."""
    changes = Changes(relations=[relation("a", key="")])
    for number in range(rows):
        changes.insert(number)
    return changes


async def main(uri: str, fence: str, rows: str, folder: str) -> None:
    """Apply the lane's first frame."""
    sessions = Sessions(Target.of(uri), PostgresOptions())
    sessions.configure(types.SessionRequest(flow="f0000001", run="r1", role=types.Role.SINK))
    side = SinkSide(sessions, PluginContext(private_directory=Path(folder)))
    context = types.WriteContext(flow="f0000001", run="r1", unit="lane-0", fence=int(fence), cursor=b"c", seq=1)
    request = types.WriteChangesRequest(context=context, frame=frame_of(int(rows)).frame, targets=("public.t",))
    await side.write_changes(request)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
