"""A run's plan as the sink keeps it, so that a flow whose state was lost can be taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import msgpack

from dsync.coordinator.following import Following
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.spec import FlowSpec
from dsync.coordinator.stream.position import Position
from dsync.protocol.errors import PermanentError
from dsync.protocol.types import FinishStep, PageType, Partition
from dsync.state import CheckpointRow, JsonObject, NamespaceRow, NamespaceState, Phase, UnitKind, UnitRow

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended, so that whoever finds it at the sink alone says the same."""

    phase: Phase
    finished_at: datetime
    consistent: bool | None
    summary: JsonObject
    undone: tuple[str, ...]
    """Units that were not done then: of namespaces that had stopped, and steps that had failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    spec: FlowSpec
    plan: CopyPlan
    """Empty: the sink was being prepared."""
    source_id: str
    carried: tuple[CheckpointRow, ...]
    """The places of units that an earlier run has copied: the ledger has none of this run for them."""
    end: RunEnd | None = None
    """None: the run has not come to its end."""


def encode_manifest(
    spec: FlowSpec,
    plan: CopyPlan,
    source_id: str,
    carried: Sequence[CheckpointRow] = (),
    *,
    end: RunEnd | None = None,
) -> bytes:
    """Bytes that `decode_manifest` reads, in this release and later ones. No secret is in them: none is in a spec."""
    packed: bytes = msgpack.packb(
        {
            "version": _VERSION,
            "spec": spec.model_dump(mode="json"),
            "source_id": source_id,
            "snapshot": plan.snapshot,
            "namespaces": [asdict(row) for row in plan.namespaces],
            "units": [asdict(unit) for unit in plan.units],
            "carried": [asdict(row) for row in carried],
            # What the source is told changes more often than this is written: of before it would be worse than nothing.
            "following": None if plan.following is None else replace(plan.following, told=Position()).as_json(),
            "end": None if end is None else asdict(end) | {"finished_at": end.finished_at.isoformat()},
        },
        default=str,
    )
    return packed


def decode_manifest(data: bytes) -> Manifest:
    """The plan behind these bytes.

    Raises:
        PermanentError: a later release wrote them, or they are damaged.
    """
    try:
        read = msgpack.unpackb(data)
        if read["version"] != _VERSION:
            raise PermanentError(
                f"the sink remembers this flow in format {read['version']}, this release reads {_VERSION}: "
                "use the newer dsync that wrote it"
            )
        return Manifest(
            spec=FlowSpec.model_validate(read["spec"]),
            source_id=read["source_id"],
            carried=tuple(CheckpointRow(**row | {"updated_at": None}) for row in read["carried"]),
            # Manifests of the first release do not say it.
            end=_end(read.get("end")),
            plan=CopyPlan(
                namespaces=tuple(_namespace(row) for row in read["namespaces"]),
                units=tuple(_unit(row) for row in read["units"]),
                snapshot=read["snapshot"],
                following=Following.of_json(read["following"]) if read.get("following") else None,
            ),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise PermanentError(
            "what the sink remembers of this flow cannot be read; `dsync reset --sink URI` removes it"
        ) from exc


def _end(read: dict[str, Any] | None) -> RunEnd | None:
    if read is None:
        return None
    return RunEnd(
        **read
        | {
            "phase": Phase(read["phase"]),
            "finished_at": datetime.fromisoformat(read["finished_at"]),
            "undone": tuple(read["undone"]),
        }
    )


def _namespace(row: dict[str, Any]) -> NamespaceRow:
    return NamespaceRow(
        **row
        | {
            "page_type": PageType(row["page_type"]),
            "columns": tuple(row["columns"]),
            "state": NamespaceState(row["state"]),
        }
    )


def _unit(row: dict[str, Any]) -> UnitRow:
    step, partition = row["step"], row["partition"]
    return UnitRow(
        **row
        | {
            "kind": UnitKind(row["kind"]),
            "partition": Partition(**partition) if partition else None,
            "step": FinishStep(**step | {"depends_on": tuple(step["depends_on"])}) if step else None,
        }
    )
