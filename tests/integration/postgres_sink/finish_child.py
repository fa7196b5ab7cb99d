"""A process that does one finish step, to be killed: `python -m … URI FLOW RUN UNIT FENCE STEP.json`."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

from dsync_postgres.conninfo import Target
from dsync_postgres.options import PostgresOptions
from dsync_postgres.sessions import Sessions
from dsync_postgres.sink.side import SinkSide

from dsync.sdk import PluginContext, types


async def main(uri: str, flow: str, run: str, unit: str, fence: str, step_file: str) -> None:
    """Do the step."""
    fields = json.loads(Path(step_file).read_text(encoding="utf-8"))
    step = types.FinishStep(
        id=fields["id"],
        kind=fields["kind"],
        name=fields["name"],
        namespace=fields["namespace"],
        payload=base64.b64decode(fields["payload"]),
    )
    sessions = Sessions(Target.of(uri), PostgresOptions())
    sessions.configure(types.SessionRequest(flow=flow, run=run, role=types.Role.SINK))
    context = types.WriteContext(flow=flow, run=run, unit=unit, fence=int(fence), cursor=b"", seq=1, done=True)
    side = SinkSide(sessions, PluginContext(private_directory=Path(step_file).parent))
    await side.finish(context, step, b"")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
