"""What Prometheus reads of a run: every figure by a documented name, with its unit, and nothing that is not known."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dsync.app.metrics import METRICS, MetricsAddress, RunMetrics, serving_metrics
from dsync.app.stream_figures import StreamFigures, StreamWatch
from dsync.coordinator.events import (
    CallRetried,
    ConsistencyReached,
    DeadLetterAdded,
    Event,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceRestarted,
    NamespaceStopped,
    PageCopied,
    PhaseChanged,
    RunFinished,
    RunPaused,
    RunResumed,
    SnapshotLost,
    StepFinished,
    StreamMoved,
)
from dsync.protocol.errors import OptionError, ServerUnavailableError
from dsync.state import Phase

MIB = 1024 * 1024


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def moved(changes: int = 0, *, safe_bytes: int | None = None, lag_s: float = 0.0, lag_bytes: int = 0) -> StreamMoved:
    return StreamMoved(
        changes=changes,
        lag_s=lag_s,
        lag_bytes=lag_bytes,
        spool_bytes=5 * MIB,
        retained_bytes=7 * MIB,
        safe_bytes=safe_bytes,
    )


def planned(namespace: str, rows: int) -> NamespacePlanned:
    return NamespacePlanned(
        namespace=namespace,
        target=namespace,
        page_type="BSON",
        reason="",
        partitions=1,
        estimated_rows=rows,
        size_bytes=9,
    )


def read(metrics: RunMetrics) -> dict[tuple[str, str], float]:
    """By name and label, as a scrape gives them."""
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def after(*events: Event) -> dict[tuple[str, str], float]:
    metrics = RunMetrics()
    for event in events:
        metrics(event)
    return read(metrics)


def test_a_copy_is_counted_by_namespace() -> None:
    """By this process: what an earlier one had copied is in the state, not in a counter that starts at 0."""
    found = after(
        planned("a", 100),
        planned("b", 7),
        PageCopied(namespace="a", rows=40, size_bytes=400),
        PageCopied(namespace="a", rows=2, size_bytes=20),
        PageCopied(namespace="b", rows=1, size_bytes=10),
        NamespaceCopied(namespace="a", rows=1042, size_bytes=10420),
        DeadLetterAdded(namespace="b", reason="violates check"),
        NamespaceStopped(namespace="b", reason="too many"),
        CallRetried(operation="read a page", error="ServerUnavailableError", reason="gone"),
        SnapshotLost(reason="restart"),
        StepFinished(step="index", kind="index", elapsed_s=1, done=3, total=8),
    )

    assert found["dsync_rows_copied_total", "a"] == 42
    assert found["dsync_bytes_copied_total", "a"] == 420
    assert found["dsync_rows_copied_total", "b"] == 1
    assert found["dsync_rows_estimated", "a"] == 100
    assert found["dsync_dead_letters_total", "b"] == 1
    assert [found["dsync_namespaces", state] for state in ("waiting", "copied", "stopped")] == [0, 1, 1]
    assert found["dsync_calls_retried_total", "ServerUnavailableError"] == 1
    assert found["dsync_snapshots_lost_total", ""] == 1
    assert (found["dsync_steps_finished", ""], found["dsync_steps", ""]) == (3, 8)


def test_a_counter_never_falls() -> None:
    """A namespace that is read again is counted again."""
    page = PageCopied(namespace="a", rows=40, size_bytes=400)
    found = after(planned("a", 100), page, NamespaceRestarted(namespace="a", reason="changed"), page)

    assert found["dsync_rows_copied_total", "a"] == 80


def test_one_phase_is_the_one() -> None:
    """All others are 0, so that a graph of it has no gaps."""
    found = after(PhaseChanged(phase="copying"), PhaseChanged(phase="streaming"))

    assert {label for name, label in found if name == "dsync_phase"} == {phase.value for phase in Phase}
    assert [label for (name, label), value in found.items() if name == "dsync_phase" and value] == ["streaming"]


def test_a_pause_and_the_consistency_are_seen() -> None:
    """What is not known yet is absent."""
    assert after(RunPaused(reason=""))["dsync_paused", ""] == 1
    assert after(RunPaused(reason=""), RunResumed())["dsync_paused", ""] == 0
    assert ("dsync_consistent", "") not in after()
    assert after(ConsistencyReached(position=5))["dsync_consistent", ""] == 1
    assert after(RunFinished(rows=1, size_bytes=1, elapsed_s=1, consistent=False))["dsync_consistent", ""] == 0
    assert ("dsync_consistent", "") not in after(RunFinished(rows=1, size_bytes=1, elapsed_s=1, consistent=None))


def test_a_stream_says_where_it_stands_and_when_its_source_gives_up() -> None:
    """By the trend of minutes; without a limit there is nothing to say."""
    clock = Clock()
    metrics = RunMetrics(now_s=clock, watch=StreamWatch(clock))
    for second in range(61):
        clock.s = 1000.0 + second
        metrics(moved(second * 50, safe_bytes=600 * MIB - second * MIB, lag_s=2.5, lag_bytes=77))
    found = read(metrics)

    assert found["dsync_changes_applied_total", ""] == 3000
    assert found["dsync_stream_lag_seconds", ""] == 2.5
    assert found["dsync_stream_lag_bytes", ""] == 77
    assert found["dsync_spool_bytes", ""] == 5 * MIB
    assert found["dsync_source_retained_bytes", ""] == 7 * MIB
    assert found["dsync_source_safe_bytes", ""] == 540 * MIB
    assert found["dsync_source_lost_in_seconds", ""] == pytest.approx(540, rel=0.02)
    assert found["dsync_stream_heard_timestamp_seconds", ""] == 1060

    metrics(moved(3000))
    found = read(metrics)
    assert ("dsync_source_safe_bytes", "") not in found
    assert ("dsync_source_lost_in_seconds", "") not in found


def test_a_source_that_was_told_what_is_durable_is_in_no_danger() -> None:
    """What it keeps goes up and down; only the trend would be a loss."""
    clock = Clock()
    watch = StreamWatch(clock)
    for second in range(120):
        clock.s += 1
        watch.note(moved(safe_bytes=600 * MIB - (second % 10) * MIB))
    assert watch.latest is not None
    assert watch.latest.lost_in_s is None or watch.latest.lost_in_s > 3600


def test_figures_survive_being_kept() -> None:
    """Also those of a version that knows less or more."""
    figures = StreamWatch(Clock()).note(moved(7, safe_bytes=1))

    assert StreamFigures.from_json(figures.as_json()) == figures
    assert StreamFigures.from_json({"changes": 7, "colour": "green"}).changes == 7


def test_every_metric_is_named_as_prometheus_asks_and_documented() -> None:
    """Counters end in _total, units are spelt out; docs/operating.md has a line for each."""
    documented = (Path(__file__).resolve().parents[3] / "docs/operating.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| `(dsync_\w+)(?:\{\w+\})?` \| (.+) \|$", documented, re.MULTILINE))

    assert lines == {name: described.said for name, described in METRICS.items()}
    for name, described in METRICS.items():
        assert name.endswith("_total") == (described.kind == "counter"), name
        assert not re.search(r"_(ms|kb|mb)(_|$)", name), name


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("9090", "127.0.0.1", 9090), (":9090", "127.0.0.1", 9090), ("localhost:0", "localhost", 0), ("[::1]:1", "::1", 1)],
)
def test_an_address_without_a_host_is_this_machine_s_alone(text: str, host: str, port: int) -> None:
    assert MetricsAddress.parse(text, allow_plaintext=False) == MetricsAddress(host=host, port=port)


@pytest.mark.parametrize("text", ["", "x", "host", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="write PORT"):
        MetricsAddress.parse(text, allow_plaintext=True)


def test_other_machines_read_them_only_where_that_is_allowed() -> None:
    """Names of tables and their sizes are nobody else's business."""
    with pytest.raises(OptionError, match="--allow-plaintext"):
        MetricsAddress.parse("0.0.0.0:9090", allow_plaintext=False)
    assert MetricsAddress.parse("0.0.0.0:9090", allow_plaintext=True).host == "0.0.0.0"


def test_they_are_served_until_the_end_and_not_longer() -> None:
    """With the process's own memory and time; a port in use is named."""
    urls: list[str] = []
    metrics = RunMetrics()
    metrics(PhaseChanged(phase="copying"))
    with serving_metrics(metrics, MetricsAddress(host="127.0.0.1", port=0), urls.append):
        with urllib.request.urlopen(urls[0], timeout=30) as answer:
            text = answer.read().decode()
        assert 'dsync_phase{phase="copying"} 1.0' in text
        assert "process_resident_memory_bytes" in text
        port = int(urls[0].split(":")[2].split("/")[0])
        taken = MetricsAddress(host="127.0.0.1", port=port)
        with pytest.raises(ServerUnavailableError, match="another port"), serving_metrics(RunMetrics(), taken):
            raise AssertionError("two servers on one port")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
