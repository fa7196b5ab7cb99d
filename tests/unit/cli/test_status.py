"""`flows` and `status` say what the state does, and how a flow goes on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dsync.app.known import find_known_flow, sync_command
from dsync.app.status import flow_status, list_flows
from dsync.app.stream_figures import StreamFigures
from dsync.app.verify import StoredProgress
from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.protocol.errors import RequestError
from dsync.protocol.types import PageType, Partition
from dsync.state import (
    CheckpointRow,
    DeadLetterRow,
    NamespaceRow,
    NamespaceState,
    Phase,
    Store,
    partition_units,
    this_process,
)
from tests.unit.cli.running import run_here


def _spec(source: str = "postgresql://a/shop", sink: str = "postgresql://b/shop", **more: Any) -> FlowSpec:
    return FlowSpec(
        source=EndpointIdentity(reference=source, address=source),
        sink=EndpointIdentity(reference=sink, address=sink),
        **more,
    )


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


def _make(state: str, *, name: str | None = None, spec: FlowSpec | None = None) -> tuple[str, str]:
    """A flow with a run, two tables and three partitions, two of which have arrived."""
    spec = spec or _spec()
    with Store.open(state) as store:
        flow, _ = store.open_flow(name=name, fingerprint=spec.fingerprint("", ""), spec=spec.model_dump(mode="json"))
        run = store.new_run(flow.flow, mode="copy")
        rows = [NamespaceRow(namespace=n, target=n, position=i, reason="same types") for i, n in enumerate("ab")]
        units = [
            *partition_units("a", 0, [Partition(namespace="a"), Partition(namespace="a", value="2")]),
            *partition_units("b", 1, [Partition(namespace="b")]),
        ]
        store.save_plan(flow.flow, run.run, rows, units, extra={"planned": True}, phase=Phase.COPYING)
        for unit in units[1:]:
            store.save_checkpoint(
                flow.flow, run.run, CheckpointRow(unit=unit.unit, rows=100, size_bytes=5000, done=True)
            )
        return flow.flow, run.run


def test_a_flow_is_found_by_name_id_and_the_beginning_of_its_id(state: str) -> None:
    """Four characters are enough where no other begins so."""
    flow, _ = _make(state, name="nightly")

    for reference in ("nightly", flow, flow[:6]):
        assert flow_status(state, reference).flow == flow


def test_what_is_cut_off_says_how_it_goes_on(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the command, and how far it is by table."""
    flow, _ = _make(state, spec=_spec(namespaces=("shop.*", "a b")))
    printed = run_here(capsys, "status", flow, "--state", state)

    assert printed.exit_code == 0
    assert f"flow {flow}: interrupted (copying), 200 rows, 10,000 bytes" in printed.stdout
    assert (
        "→ it is not running; this goes on where it was: dsync sync postgresql://a/shop postgresql://b/shop --mode copy"
        " -n 'shop.*' -n 'a b'" in printed.stdout
    )
    rows = [line.split() for line in printed.stdout.splitlines()]
    assert ["a", "pending", "100", "5,000", "1/2", "0"] in rows
    assert ["b", "pending", "100", "5,000", "1/1", "0"] in rows
    assert "same types" not in printed.stdout


def test_a_running_flow_names_its_holder(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Host and process; there is nothing to do then."""
    flow, _ = _make(state)
    with Store.open(state) as store:
        holder = this_process()
        lease = store.acquire_lease(flow, holder)
        found = run_here(capsys, "status", flow, "--state", state, "--json").json["result"]
        listed = run_here(capsys, "flows", "--state", state)
        store.release_lease(lease)

    assert found["running"] is True
    assert (found["holder"]["host"], found["holder"]["pid"]) == (holder.host, holder.pid)
    assert found["next_step"] == ""
    assert "copying (running)" in listed.stdout
    assert flow_status(state, flow).holder is None


def test_a_stream_is_shown_as_its_process_last_said(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Lag, spool, what the source keeps and until when; the rest of what the run keeps stays."""
    flow, run = _make(state)
    figures = StreamFigures(
        changes=1234,
        changes_per_s=40.0,
        lag_s=2.0,
        lag_bytes=2000,
        spool_bytes=3_000_000,
        retained_bytes=7_000_000,
        safe_bytes=60_000_000,
        lost_in_s=90.0,
    )
    with Store.open(state) as store:
        store.set_extra(flow, run, {"planned": True, "following": {"consistent_at": 77}})
        store.note_stream(flow, run, figures.as_json())
        row = store.get_run(flow, run)
        assert row is not None
        assert row.extra["following"] == {"consistent_at": 77}
        lease = store.acquire_lease(flow, this_process())
        running = run_here(capsys, "status", flow, "--state", state).stdout
        found = run_here(capsys, "status", flow, "--state", state, "--json").json["result"]
        store.release_lease(lease)
    stopped = run_here(capsys, "status", flow, "--state", state).stdout

    assert re.search(r"stream +2\.0 s and 2\.0 kB behind, 1,234 changes applied, 40/s \(\d+\.\d s ago\)", running), (
        running
    )
    assert re.search(r"spool +3\.0 MB", running)
    assert re.search(r"keeps +7\.0 MB; gives it up after another 60\.0 MB, in 1 min 30 s at this rate", running)
    assert re.search(r"consistent +since the source's position 77", running)
    assert found["stream"]["lag_s"] == 2.0
    assert found["stream"]["lost_in_s"] == 90.0
    assert found["stream"]["age_s"] < 60
    assert found["consistent_at"] == 77
    assert "when it was last running, " in stopped


def test_a_paused_flow_says_so_and_how_it_goes_on(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Running or not; once it is resumed there is nothing to say."""
    flow, _ = _make(state, name="nightly")
    with Store.open(state) as store:
        asked = store.add_request(flow, "pause")
        stopped = run_here(capsys, "status", flow, "--state", state).stdout
        listed = run_here(capsys, "flows", "--state", state).stdout
        store.complete_request(flow, asked.request)
    resumed = run_here(capsys, "status", flow, "--state", state).stdout

    assert f"flow {flow} (nightly): paused (copying)" in stopped
    assert f"dsync resume nightly --state {state}" in stopped
    assert "copying (paused)" in listed
    assert f"flow {flow} (nightly): interrupted (copying)" in resumed


def test_a_flow_that_failed_says_why(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As it was said when it failed."""
    flow, run = _make(state)
    with Store.open(state) as store:
        error = {"class": "ServerUnavailableError", "message": "nothing listens there", "exit_code": 3}
        store.finish_run(flow, run, Phase.FAILED, error=error)
    printed = run_here(capsys, "status", flow, "--state", state)

    assert "failed at " in printed.stdout
    assert "nothing listens there" in printed.stdout
    assert "this goes on where it was" in printed.stdout


def test_an_inconsistent_copy_says_which_table_and_what_repairs_it(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--again`."""
    flow, run = _make(state, name="nightly")
    with Store.open(state) as store:
        store.set_namespace_state(flow, run, "a", NamespaceState.CHANGED, reason="rows were written meanwhile")
        store.finish_run(flow, run, Phase.INCONSISTENT, consistent=False)
    printed = run_here(capsys, "status", "nightly", "--state", state)

    assert f"flow {flow} (nightly): inconsistent since " in printed.stdout
    assert "a: rows were written meanwhile" in printed.stdout
    assert "--flow nightly --again" in printed.stdout


def test_dead_letters_are_listed_by_reason_and_never_by_content(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The most frequent reason first."""
    flow, run = _make(state)
    letters = [
        DeadLetterRow(
            unit="p0.0.1",
            namespace="a",
            cursor_digest=b"x",
            row_index=index,
            reason="violates check" if index else "is too long",
            error_class="RecordError",
            payload=b"canary",
            page_type=PageType.BSON,
        )
        for index in range(4)
    ]
    with Store.open(state) as store:
        store.add_dead_letters(flow, run, letters)
    printed = run_here(capsys, "status", flow, "--state", state)

    assert printed.stdout.index("a: 3 records: violates check") < printed.stdout.index("a: 1 record: is too long")
    assert "canary" not in printed.stdout
    assert list_flows(state)[0].dead_letters == 4

    with Store.open(state) as store:
        store.finish_run(flow, run, Phase.DONE, consistent=True)
    line = next(line for line in run_here(capsys, "status", "--state", state).stdout.splitlines() if "→ this" in line)
    listed = run_here(capsys, *shlex.split(line.rpartition(": dsync ")[2]))
    assert listed.exit_code == 0
    assert "violates check" in listed.stdout


def test_status_without_a_flow_shows_all(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Oldest first."""
    first, _ = _make(state, name="one")
    second, _ = _make(state, name="two", spec=_spec(sink="postgresql://c/shop"))
    printed = run_here(capsys, "status", "--state", state)

    assert printed.stdout.index(first) < printed.stdout.index(second)
    assert [flow["name"] for flow in run_here(capsys, "flows", "--state", state, "--json").json["result"]["flows"]] == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("end", ["source", "sink"])
def test_a_password_that_the_state_did_not_keep_is_asked_for(state: str, end: str) -> None:
    """Exit 2, naming the option; a reference without one is used as it is."""
    hidden = "postgresql://app:***@a/shop"
    flow, _ = _make(state, spec=_spec(**{end: hidden}))
    other = "sink" if end == "source" else "source"
    with Store.open(state) as store:
        known = find_known_flow(store, flow)

    with pytest.raises(RequestError, match=f"give --{end} URI"):
        getattr(known, end)()
    assert getattr(known, end)("postgresql://app:x@a/shop") == "postgresql://app:x@a/shop"
    assert getattr(known, other)() == getattr(known.spec, other).reference


def test_a_command_is_quoted_for_the_shell() -> None:
    """So that it can be pasted."""
    spec = _spec(source="postgresql://a/shop?sslmode=require&x=1", namespaces=('"odd name"',), schema_mode="none")

    assert sync_command(spec, "my flow") == (
        "dsync sync 'postgresql://a/shop?sslmode=require&x=1' postgresql://b/shop --mode copy -n '\"odd name\"'"
        " --schema none --flow 'my flow'"
    )


def test_a_command_finds_the_same_flow_again() -> None:
    """What belongs to the fingerprint stands in it, and what was chosen for rows and schema; tuning does not."""
    spec = _spec(
        namespaces=("shop.*",),
        exclude=("shop.audit_*", "shop.log"),
        filters=("shop.orders=total > 100",),
        dead_letters=("shop.orders=0",),
        data_type="bson",
        no_owner=True,
        no_privileges=True,
        allow_lossy=True,
        on_existing="drop",
        parallel=7,
    )

    assert shlex.split(sync_command(spec, ""))[6:] == [
        *("-n", "shop.*"),
        *("--exclude", "shop.audit_*"),
        *("--exclude", "shop.log"),
        *("--filter", "shop.orders=total > 100"),
        *("--dead-letters", "shop.orders=0"),
        *("--data-type", "bson"),
        *("--no-owner", "--no-privileges", "--allow-lossy"),
    ]
    assert sync_command(spec, "", has_tables=False).endswith(" --on-existing drop")


async def test_a_stopped_comparison_keeps_what_it_had_by_table(state: str) -> None:
    """Ranges come back as they were saved, and one table is forgotten without the others."""
    with Store.open(state) as store:
        progress = StoredProgress(store, pair="ends", variant="v")
        await progress.save("a", -1, {"ranges": [1]})
        await progress.save("a", 0, {"rows": 1})
        await progress.save("a", 0, {"rows": 2})
        await progress.save("b", 0, {"rows": 3})

        again = StoredProgress(store, pair="ends", variant="v")
        assert await again.load("a") == {-1: {"ranges": [1]}, 0: {"rows": 2}}
        await again.clear("a")
        assert await again.load("a") == {}
        assert await again.load("b") == {0: {"rows": 3}}
        assert await StoredProgress(store, pair="ends", variant="other").load("b") == {}
        assert await StoredProgress(store, pair="others", variant="v").load("b") == {}
