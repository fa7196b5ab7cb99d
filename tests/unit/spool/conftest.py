"""A disk that can be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDisk:
    """A file system of 2 MiB."""

    path: Path

    def fill(self, *, but_bytes: int = 0) -> None:
        """Take all space but so much; the last page too."""
        filler = self.path / "filler"
        free = shutil.disk_usage(self.path).free
        filler.write_bytes(bytes(max(free - but_bytes, 0)))

    def free(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Skips where this user may not mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk needs root, to mount it")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield SmallDisk(path=path)
    subprocess.run(["umount", "-l", str(path)], check=True)
