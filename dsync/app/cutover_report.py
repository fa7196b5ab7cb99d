"""What a cut-over has come to: whether it is safe to switch, and if not, every reason why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dsync.app.cutover_drift import Drift
from dsync.protocol.types import ConnectedSession

if TYPE_CHECKING:
    from dsync.verify import VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why it is not safe to switch."""

    code: str
    """For scripts: `lag`, `written`, `drift`, `differences`, …"""
    exit_code: int
    message: str


@dataclass(slots=True, kw_only=True)
class CutoverReport:
    """Filled step by step."""

    flow: str
    flow_name: str
    reasons: list[Reason] = field(default_factory=list)
    came_to_its_end: bool = False
    """Every step was done, so that no further reason is unknown."""
    position: int | None = None
    """The source's, up to which everything is at the sink and after which nothing was written."""
    is_frozen: bool = False
    """The source is read-only by our doing, and stays so."""
    undo: str = ""
    """What makes it writable again."""
    ended: tuple[ConnectedSession, ...] = ()
    left: tuple[ConnectedSession, ...] = ()
    exempt: tuple[str, ...] = ()
    written: Mapping[str, int] = field(default_factory=dict)
    """Changes after the end mark, by table."""
    sequences: int = 0
    """How many were looked at and moved where they were behind."""
    refreshed: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = ()
    verify: VerifyReport | None = None
    reverse: str = ""
    """The name of the flow back."""
    reverse_command: str = ""
    """What lets it go on."""
    resume_command: str = ""
    """What lets the flow itself go on."""
    finished_at: str = ""
    was_done_before: bool = False
    """This is what an earlier command has come to."""

    @property
    def is_safe(self) -> bool:
        return self.came_to_its_end and not self.reasons

    @property
    def title(self) -> str:
        return self.flow_name or self.flow

    @property
    def exit_code(self) -> int:
        from dsync.coordinator.result import worst_exit_code

        return worst_exit_code({reason.exit_code for reason in self.reasons} or {0 if self.came_to_its_end else 1})

    def refuse(self, code: str, exit_code: int, message: str) -> None:
        """One more reason."""
        self.reasons.append(Reason(code=code, exit_code=exit_code, message=message))

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it, and the state keeps it."""
        return {
            "flow": self.flow,
            "name": self.flow_name or None,
            "safe": self.is_safe,
            "reasons": [{"code": r.code, "message": r.message} for r in self.reasons],
            "position": self.position,
            "frozen": self.is_frozen,
            "undo": self.undo or None,
            "sessions_ended": [_session(one) for one in self.ended],
            "sessions_left": [_session(one) for one in self.left],
            "exempt": list(self.exempt),
            "written": dict(self.written),
            "sequences": self.sequences,
            "refreshed": list(self.refreshed),
            "drift": [item.as_json() for item in self.drift],
            "verify": self.verify.as_json() if self.verify is not None else None,
            "reverse": self.reverse or None,
            "reverse_command": self.reverse_command or None,
            "finished_at": self.finished_at or None,
        }

    @classmethod
    def of_earlier(cls, kept: Mapping[str, Any], *, resume_command: str) -> CutoverReport:
        """A cut-over that had come to a safe end, as far as it is told again."""
        return cls(
            flow=kept["flow"],
            flow_name=kept["name"] or "",
            came_to_its_end=True,
            position=kept["position"],
            is_frozen=kept["frozen"],
            undo=kept["undo"] or "",
            sequences=kept["sequences"],
            refreshed=tuple(kept["refreshed"]),
            drift=tuple(Drift(**item) for item in kept["drift"]),
            reverse=kept["reverse"] or "",
            reverse_command=kept["reverse_command"] or "",
            resume_command=resume_command,
            finished_at=kept["finished_at"] or "",
            was_done_before=True,
        )


def _session(one: ConnectedSession) -> dict[str, Any]:
    return {"id": one.id, "user": one.user, "application": one.application, "state": one.state, "open_s": one.open_s}
