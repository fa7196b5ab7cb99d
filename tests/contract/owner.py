"""A program that owns plug-in processes, to be killed by a test: prints their ids and directories, then waits."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack

import structlog

from dsync.plugins.manager import open_endpoint
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import page_store, runtime_directory
from tests.contract import broken_plugins


async def main() -> None:
    """Open two plug-ins and wait for the end."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    registry = Registry.installed(also=broken_plugins.ALL)
    async with AsyncExitStack() as stack:
        runtime = stack.enter_context(runtime_directory())
        pages = stack.enter_context(page_store(runtime, need_bytes=1))
        pids = []
        for _ in range(2):
            opened = await stack.enter_async_context(open_endpoint("spawning://", registry=registry, runtime=runtime))
            info = await opened.connector.get_info()
            pids += [opened.pid, int(info.id)]
        report = {"pids": pids, "directories": [str(runtime), str(pages.directory)]}
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
