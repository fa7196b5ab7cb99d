"""`verify` takes the options of `sync`; those that concern reading have the effect that they say."""

from __future__ import annotations

from typing import Any

import pytest

from dsync.app import verify as app_verify
from dsync.app.requests import VerifyRequest, load_of
from dsync.coordinator.spec import MIB
from dsync.protocol.errors import ServerUnavailableError
from dsync.verify import VerifyOptions
from tests.unit.cli.running import run_here

USUAL = VerifyOptions()


def _asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> VerifyOptions:
    """What a command line means."""
    requests: list[VerifyRequest] = []

    async def refuse(request: VerifyRequest, *_: Any, **__: Any) -> None:
        requests.append(request)
        raise ServerUnavailableError("as far as this test goes")

    monkeypatch.setattr(app_verify, "verify", refuse)
    assert run_here(capsys, "verify", "postgresql://a/x", "postgresql://b/x", *options).exit_code == 3
    return app_verify.options_of(requests[0])


def test_what_is_said_about_reading_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages, memory, patience, pieces at a time."""
    options = ("--page-bytes", "256KiB", "--memory-limit", "64MiB", "--retry-for", "3s", "--parallel", "5")
    found = _asked(monkeypatch, capsys, *options)

    assert (found.page_bytes, found.held_bytes, found.retry_for_s, found.parallel) == (256 * 1024, 8 * MIB, 3.0, 5)


def test_a_load_level_is_heeded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One piece at a time, in small pages; what is said of them wins."""
    low = _asked(monkeypatch, capsys, "--load-level", "low")
    assert (low.parallel, low.page_bytes) == (1, MIB)
    assert _asked(monkeypatch, capsys, "--load-level", "low", "--parallel", "3").parallel == 3


def test_without_a_word_it_is_as_usual(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = _asked(monkeypatch, capsys)

    assert found == VerifyOptions(parallel=load_of("high").parallel)
    assert (found.held_bytes, found.retry_for_s) == (USUAL.held_bytes, USUAL.retry_for_s)
