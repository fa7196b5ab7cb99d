"""`--metrics` while a flow runs: what Prometheus reads of a real process, and who may."""

from __future__ import annotations

import re
import signal
import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.cli.running import Dsync, Running
from tests.support.waiting import wait_for

SLOW = ("sync", "random://?documents=100000", "null://", "--mode", "copy", "--rate-limit", "200/s", "--flow", "shop")


def _url(running: Running) -> str:
    running.wait_for("metrics_served")
    found = re.search(r"http://\S+/metrics", running.printed)
    assert found, running.printed
    return found[0]


def _scrape(url: str) -> dict[str, float]:
    """Sums over the labels, but for the phase, which is named."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = f"{sample.name} {sample.labels['phase']}" if "phase" in sample.labels else sample.name
            found[name] = found.get(name, 0.0) + sample.value
    return found


def test_a_running_flow_is_read_by_prometheus_and_a_pause_is_seen(dsync: Dsync) -> None:
    """Rows grow, and do not while it is paused; nothing listens once it has ended."""
    running = dsync.start(*SLOW, "--metrics", "0")
    url = _url(running)
    wait_for(lambda: _scrape(url).get("dsync_rows_copied_total", 0) > 0, timeout_s=60, what=lambda: running.printed)
    first = _scrape(url)
    assert url.startswith("http://127.0.0.1:")
    assert (first["dsync_phase copying"], first["dsync_phase streaming"], first["dsync_paused"]) == (1, 0, 0)
    assert first["process_resident_memory_bytes"] > 0
    wait_for(
        lambda: _scrape(url)["dsync_rows_copied_total"] > first["dsync_rows_copied_total"],
        timeout_s=60,
        what=lambda: running.printed,
    )

    assert dsync("pause", "shop").exit_code == 0
    wait_for(lambda: _scrape(url)["dsync_paused"] == 1, timeout_s=30, what=lambda: running.printed)
    running.send(signal.SIGINT)
    assert running.end().exit_code == 130
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.split(":")[2].split("/")[0]))) != 0


def test_an_address_that_cannot_be_had_is_named_before_anything_is_done(dsync: Dsync) -> None:
    """Exit code 3 for a port in use, 2 for one that others could read or that is none."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = dsync(*SLOW, "--metrics", str(taken.getsockname()[1]), "--json")
    assert (used.exit_code, used.json["error"]["class"]) == (3, "ServerUnavailableError")

    for address, said in (("0.0.0.0:0", "--allow-plaintext"), ("nine", "write PORT")):
        refused = dsync(*SLOW, "--metrics", address, "--json")
        assert (refused.exit_code, refused.json["error"]["class"]) == (2, "OptionError")
        assert said in refused.json["summary"]
    assert dsync("flows", "--json").result["flows"] == []
