"""Two machines on this one: each with a network, process numbers, a name and a boot of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil

from tests.support.waiting import wait_for

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# The boot is what tells machines apart: without one of its own a machine could look for the other's processes.
_BEGIN = f"""
hostname "$1" && mount --bind "$2" {_BOOT_ID} && ip link set lo up && echo up && exec sleep infinity
"""


class NoMachinesError(Exception):
    """They cannot be made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One of them; it reaches the databases and the state by addresses of their own."""

    name: str
    pid: int
    """Of its first process, seen from here."""
    databases: str
    """Our address for the databases, seen from there."""
    state: str
    """Our address for the state."""

    @property
    def inside(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("nsenter", "--target", str(self.pid), "--net", "--uts", "--pid", "--mount", "--")

    def cut_from_state(self) -> None:
        """From now on nothing that it sends to the state arrives, and it is not told."""
        _run("nsenter", "--target", str(self.pid), "--net", "ip", "route", "add", "blackhole", f"{self.state}/32")

    def join_state(self) -> None:
        _run("nsenter", "--target", str(self.pid), "--net", "ip", "route", "del", "blackhole", f"{self.state}/32")


def at(uri: str, address: str) -> str:
    """The same database by another address."""
    parts = urlsplit(uri)
    account = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{account}@{address}:{parts.port}"))


@contextmanager
def two_machines(directory: Path) -> Iterator[tuple[Machine, Machine]]:
    """Make them, and end all that runs on them. Raises NoMachinesError."""
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in ("ip", "unshare", "nsenter")):
        raise NoMachinesError("machines of their own need root, iproute2 and util-linux")
    with ExitStack() as made:
        try:
            yield tuple(_machine(made, directory, place) for place in (0, 1))  # type: ignore[misc]
        except OSError as exc:
            raise NoMachinesError(f"machines of their own cannot be made here: {exc}") from exc


def _machine(made: ExitStack, directory: Path, place: int) -> Machine:
    name = f"machine-{'ab'[place]}"
    boot = directory / f"{name}.boot"
    boot.write_text(f"{uuid.uuid4()}\n")
    pid = _first_process(made, name, boot)
    near, far = _address(place * 8 + 1), _address(place * 8 + 2)
    # The same for both, as a flow is found by the addresses of its ends.
    databases, state = _address(17), _address(18)
    line = f"dsm{os.getpid()}{'ab'[place]}"
    _run("ip", "link", "add", line, "type", "veth", "peer", "name", "line", "netns", str(pid))
    for address in (f"{near}/29", *((f"{databases}/32", f"{state}/32") if place == 0 else ())):
        _run("ip", "address", "add", address, "dev", line)
    _run("ip", "link", "set", line, "up")
    there = ("nsenter", "--target", str(pid), "--net", "ip")
    _run(*there, "address", "add", f"{far}/29", "dev", "line")
    _run(*there, "link", "set", "line", "up")
    _run(*there, "route", "add", "default", "via", near)
    return Machine(name=name, pid=pid, databases=databases, state=state)


def _address(number: int) -> str:
    """Of the range that is for tests of networks; each process that tests has 32 of them."""
    place = os.getpid() % 2048 * 32 + number
    return f"198.19.{place // 256}.{place % 256}"


def _first_process(made: ExitStack, name: str, boot: Path) -> int:
    """Begin a machine; with its first process everything on it ends, its end of the line included."""
    command = ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen(
        [*command, "sh", "-c", _BEGIN, "sh", name, str(boot)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    made.callback(process.wait)
    made.callback(process.kill)
    assert process.stdout is not None
    made.callback(process.stdout.close)
    said = process.stdout.readline().strip()
    if said != "up":
        raise OSError(said or "it ended at once")
    (first,) = wait_for(lambda: psutil.Process(process.pid).children(), what=f"the first process of {name}")
    return first.pid


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
