"""`dsync serve` offers a connector to another coordinator, on this machine or another."""

from __future__ import annotations

import json
import signal

import pytest

from tests.integration.cli.running import Dsync, Running


def _served(dsync: Dsync, *arguments: str, **environ: str) -> tuple[Running, str]:
    running = dsync.start("serve", *arguments, "--listen", "127.0.0.1:0", "--json", **environ)
    running.wait_for('"address"')
    (line,) = [line for line in running.printed.splitlines() if '"address"' in line]
    address: str = json.loads(line)["result"]["address"]
    return running, address


@pytest.mark.parametrize(("number", "ends_with"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_a_served_source_is_copied_from(dsync: Dsync, number: signal.Signals, ends_with: int) -> None:
    """Over TCP, by any coordinator; asked to end, it ends well."""
    running, address = _served(dsync, "random://?documents=500&namespaces=2")
    copied = dsync("sync", address, "null://", "--mode", "copy", "--json")
    running.send(number)
    ended = running.end()

    assert copied.exit_code == 0, copied.stderr
    assert copied.result["rows"] == 1000
    assert ended.exit_code == ends_with
    assert ended.json["command"] == "serve"


def test_only_callers_with_the_token_get_in(dsync: Dsync) -> None:
    """The token is named by reference on both sides."""
    _, address = _served(dsync, "random://?documents=10", "--token", "env:TOKEN", TOKEN="canary-token")
    without = dsync("doctor", address, "--json")
    wrong = dsync("doctor", f"{address}?token=env:TOKEN", "--json", TOKEN="another")
    right = dsync("sync", f"{address}?token=env:TOKEN", "null://", "--mode", "copy", "--json", TOKEN="canary-token")

    for refused in (without, wrong):
        assert (refused.exit_code, refused.json["error"]["class"]) == (3, "AuthenticationError"), refused.stderr
    assert right.exit_code == 0, right.stderr
    assert right.result["rows"] == 10


def test_a_port_that_is_taken_is_the_environment_s_fault(dsync: Dsync) -> None:
    """Exit 3, and one object."""
    _, address = _served(dsync, "random://")
    second = dsync("serve", "null://", "--listen", address.removeprefix("grpc://"), "--json")

    assert second.exit_code == 3
    assert "cannot listen on" in second.json["summary"]
