"""Connectors that misbehave around their start and their end; loaded in child processes of the tests."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import structlog

from dsync.protocol.interface import Connector
from dsync.protocol.types import Info, SourceCapabilities
from dsync.sdk.options import Options
from dsync.sdk.plugin import ConnectorSpec, PluginContext


class EchoOptions(Options):
    """None of its own."""


class Echo(Connector):
    """Answers with its application name and the process ids of what it started."""

    def __init__(self, context: PluginContext, *, pids: str = "", closes_in_s: float = 0) -> None:
        self._context = context
        self._pids = pids
        self._closes_in_s = closes_in_s

    async def get_info(self) -> Info:
        return Info(id=self._pids, db_type=self._context.application_name, source=SourceCapabilities())

    async def count(self, namespace: str) -> int:
        """Keep the interpreter busy, so that nothing in this process gets a turn."""
        end = time.monotonic() + float(namespace)
        while time.monotonic() < end:
            pass
        return 0

    async def close(self) -> None:
        await asyncio.sleep(self._closes_in_s)


def _dies(uri: str, options: Options, context: PluginContext) -> Connector:
    print("cannot load the driver", file=sys.stderr, flush=True)
    os._exit(3)


def _silent(uri: str, options: Options, context: PluginContext) -> Connector:
    time.sleep(60)
    raise AssertionError


def _raises(uri: str, options: Options, context: PluginContext) -> Connector:
    raise KeyError(uri)


def _chatty(uri: str, options: Options, context: PluginContext) -> Connector:
    print("printed on stdout", uri)
    logging.getLogger("driver").warning("connecting to %s", uri)
    structlog.get_logger().warning("plugin_spoke", uri=uri)
    warnings.warn(f"a warning about {uri}", stacklevel=1)
    sys.stdout.flush()
    return Echo(context)


def _spawning(uri: str, options: Options, context: PluginContext) -> Connector:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return Echo(context, pids=str(helper.pid))


def _stubborn(uri: str, options: Options, context: PluginContext) -> Connector:
    return Echo(context, closes_in_s=600)


def _spec(name: str, create: Callable[[str, Options, PluginContext], Connector]) -> ConnectorSpec:
    return ConnectorSpec(name=name, schemes=(name,), summary="for tests", options=lambda: EchoOptions, create=create)


DIES = _spec("dies", _dies)
SILENT = _spec("silent", _silent)
RAISES = _spec("raises", _raises)
CHATTY = _spec("chatty", _chatty)
SPAWNING = _spec("spawning", _spawning)
STUBBORN = _spec("stubborn", _stubborn)

ALL = [
    (spec.name, f"{__name__}:{constant}")
    for constant, spec in [
        ("DIES", DIES),
        ("SILENT", SILENT),
        ("RAISES", RAISES),
        ("CHATTY", CHATTY),
        ("SPAWNING", SPAWNING),
        ("STUBBORN", STUBBORN),
    ]
]
