"""One copy between two databases, in this process or as the installed command does it, with what it said."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsync.app.requests import SyncRequest
from dsync.app.sync import SyncOutcome, sync
from dsync.coordinator.events import Event, PageCopied
from dsync.coordinator.result import NamespaceResult, RunResult
from tests.support.databases import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """How a copy ended."""

    outcome: SyncOutcome
    events: tuple[Event, ...]

    @property
    def exit_code(self) -> int:
        return self.outcome.exit_code

    @property
    def result(self) -> RunResult:
        assert self.outcome.result is not None, "the run had ended before"
        return self.outcome.result

    @property
    def tables(self) -> dict[str, NamespaceResult]:
        """What is said of each namespace of the source."""
        return {item.namespace: item for item in self.result.namespaces}

    @property
    def rows(self) -> dict[str, int]:
        """The rows that each namespace has at the sink, those of earlier lives and runs too."""
        return {name: item.rows for name, item in self.tables.items()}

    @property
    def moved(self) -> dict[str, int]:
        """The rows that this process has read, for the namespaces that it has read at all."""
        moved: defaultdict[str, int] = defaultdict(int)
        for event in self.events:
            if isinstance(event, PageCopied):
                moved[event.namespace] += event.rows
        return dict(moved)

    def explained(self) -> str:
        """Everything that a failed test should print."""
        lines = [f"exit code {self.exit_code}"]
        if self.outcome.result is not None:
            lines.append(str(self.outcome.result.as_json()))
        if self.outcome.verify is not None and not self.outcome.verify.is_equal:
            lines.append(str([item for item in self.outcome.verify.namespaces if not item.is_equal]))
        lines += [str(event) for event in self.events if not isinstance(event, PageCopied)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copier:
    """Copies from one database to another, as often as it is called, over one state."""

    source: Database
    sink: Database
    state: Path
    options: dict[str, Any] = field(default_factory=dict)
    source_uri: str = ""
    """As whom to read, where not as superuser."""
    sink_uri: str = ""

    async def __call__(self, **options: Any) -> Copied:
        """Copy in this process with `--verify`, unless the options say otherwise; raises what the run raises."""
        request = SyncRequest(
            source=self.source_uri or self.source.uri,
            sink=self.sink_uri or self.sink.uri,
            state=str(self.state),
            **{"attach": "inline", "verify": True, **self.options, **options},
        )
        events: list[Event] = []
        outcome = await sync(request, events.append, asyncio.Event())
        return Copied(outcome=outcome, events=tuple(events))
