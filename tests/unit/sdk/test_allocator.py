"""The allocator is set in a process of its own, where nothing else depends on it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
from dsync.sdk import allocator

tuned = allocator.tune() if sys.argv[1] == "tuned" else False
for round in range(11):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pages = [bytearray(b"x") * 8_000_000 for _ in range(5)]
    del pages
print(tuned, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(how: str) -> tuple[bool, int]:
    command = [sys.executable, "-c", _PROGRAM, how]
    tuned, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return tuned == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these thresholds")
def test_a_freed_page_is_taken_again_without_asking_the_kernel() -> None:
    """Five pages of 8 MB at a time, ten times: without it each costs its page faults anew."""
    tuned, few = _run("tuned")
    _, many = _run("plain")
    assert tuned
    assert many > 10_000
    assert few < many / 5


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl and macOS do not know the name that is asked for."""
    from dsync.sdk import allocator

    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert allocator.tune() is False
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert allocator.tune() is False
