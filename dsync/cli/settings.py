"""What the options that every command has say, and what must not be shown: one object a process."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dsync.cli.log_file import LogFile
    from dsync.sdk.redaction import Redactor

LogFormat = Literal["console", "json"]


@dataclass(slots=True, kw_only=True)
class Settings:
    """Filled while the command line is parsed; the command line wins over the flow file."""

    command: str = ""
    """As typed, without `dsync`: `connectors show`."""
    config: str = ""
    """The flow file's path."""
    verbosity: int = 0
    is_quiet: bool = False
    log_format: LogFormat = "console"
    log_file: str | None = None
    """The log file's path."""
    log: LogFile | None = None
    """The log file, once it has been opened."""
    yes: bool = False
    """Answer every question with yes."""
    json: bool = False
    given: set[str] = field(default_factory=set)
    """Which of these stood on the command line."""
    _to_hide: list[str] = field(default_factory=list, repr=False)
    _redactor: Redactor | None = None

    def hide(self, secrets: Iterable[str]) -> None:
        """Never show these, from now on."""
        self._to_hide += [secret for secret in secrets if secret]

    def shown(self, text: str) -> str:
        """The text without secrets."""
        if self._to_hide:
            # Not before there is something to show: it brings gRPC along, and plug-ins are to be on their way first.
            from dsync.sdk.redaction import Redactor

            if self._redactor is None:
                self._redactor = Redactor()
            self._redactor.add(self._to_hide)
            self._to_hide = []
        return text if self._redactor is None else self._redactor.text(text)

    def shown_values(self, value: Any) -> Any:
        """The same for every text in what is about to become JSON."""
        if isinstance(value, str):
            return self.shown(value)
        if isinstance(value, dict):
            return {key: self.shown_values(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.shown_values(item) for item in value]
        return value

    def record(self, level: str, event: str, **fields: Any) -> None:
        """One line in the log file, where there is one."""
        if self.log is not None:
            self.log.write(level, self.shown(event), self.shown_values(fields))

    @property
    def can_ask(self) -> bool:
        """Somebody sits at a terminal."""
        return sys.stdin.isatty() and sys.stderr.isatty()
