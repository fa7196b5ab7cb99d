"""Records a state of the newest revision for the tests of later releases: `python -m tests.unit.state.record`.

Run once when a revision is new; a file that a release has shipped is never recorded again.
"""

from __future__ import annotations

from pathlib import Path

from dsync.protocol.types import FinishStep, PageType
from dsync.state import (
    CheckpointRow,
    DeadLetterRow,
    EventRow,
    NamespaceRow,
    NamespaceState,
    Phase,
    Store,
    VerifyRow,
    finish_units,
    partition_units,
)
from dsync.state.schema import HEAD
from tests.unit.state.support import HandClock, elsewhere, slices

SPEC = {"version": 1, "source": "postgresql://a.example/shop", "sink": "postgresql://b.example/shop"}


def record(path: Path) -> None:
    clock = HandClock()
    with Store.open(path, clock=clock) as store:
        flow = store.create_flow(name="shop", fingerprint="f1", spec=SPEC).flow
        lease = store.acquire_lease(flow, elsewhere())
        run = store.new_run(flow, mode="copy").run
        store.set_endpoints(flow, run, source_id="source-1", sink_ids={"1": "sink-1"})
        rows = [
            NamespaceRow(namespace=name, target=name, position=place, page_type=PageType.PG_COPY_BINARY, columns=("a",))
            for place, name in enumerate(("t0", "t1"))
        ]
        units = [unit for row in rows for unit in partition_units(row.namespace, row.position, slices("t", 3))]
        steps = finish_units([FinishStep(id="s1", kind="index", name="i", namespace="t0", payload=b"\x00payload")])
        store.save_plan(flow, run, rows, [*units, *steps], snapshot=b"snapshot-1", phase=Phase.COPYING)
        store.set_namespace_state(flow, run, "t0", NamespaceState.COPYING)
        store.save_checkpoint(
            flow, run, CheckpointRow(unit="p0.0.1", cursor=b"\x00cursor", seq=7, rows=700, size_bytes=9000)
        )
        store.replace_units(flow, run, "t1", slices("t1", 2), reason="the table was rewritten")
        store.add_dead_letters(
            flow,
            run,
            [
                DeadLetterRow(
                    unit="p0.0.1",
                    namespace="t0",
                    cursor_digest=b"\x01" * 16,
                    row_index=3,
                    reason="check constraint positive",
                    error_class="RecordError",
                    payload=b"\x00row",
                    page_type=PageType.PG_COPY_BINARY,
                )
            ],
        )
        store.append_events(flow, [EventRow(name="run_started", run=run, data={"mode": "copy"})])
        store.add_request(flow, "cancel", {"by": "test"})
        store.save_verify_progress(flow, run, [VerifyRow(namespace="t0", ordinal=0, result={"count": 3})])
        store.release_lease(lease)


if __name__ == "__main__":
    record(Path(__file__).with_name("recorded") / f"state-{HEAD}.db")
