"""The manifest's file: two slots that are written in turn, so that one is whole whatever happens.

They are written in place. A new file would need space, and on a full disk trimming is what makes room.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dsync.spool import files
from dsync.spool.errors import CorruptSpoolError, OtherFlowsSpoolError
from dsync.spool.layout import BLOCK_BYTES, MAX_FLOW_BYTES, DamagedError, Manifest

# Apart by more than what any disk or file system writes as one.
_SLOT_BYTES = 4096


class ManifestFile:
    """An open manifest."""

    def __init__(self, path: Path, descriptor: int, manifest: Manifest) -> None:
        self.path = path
        self._descriptor = descriptor
        self.current = manifest

    def replace(self, manifest: Manifest) -> None:
        """Make this one durable. Raises OSError; then nobody knows which of the two is on the disk."""
        data = manifest.encode()
        written, error = files.write_all(self._descriptor, [data], _slot_of(manifest))
        if error is not None or written != len(data):
            raise error or OSError(f"{written} of {len(data)} bytes were written")
        files.flush(self._descriptor)
        self.current = manifest

    def close(self) -> None:
        """Repeatable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_manifest(directory: Path, flow: str) -> ManifestFile:
    """The directory's manifest; made where the directory is empty, and where a removal was interrupted.

    Raises:
        OtherFlowsSpoolError, NotASpoolError, CorruptSpoolError, SpoolFromTheFutureError.
        OSError: the system refused.
    """
    if not 0 < len(flow.encode()) <= MAX_FLOW_BYTES:
        raise ValueError(f"a flow's id has 1 to {MAX_FLOW_BYTES} bytes")
    path = directory / files.MANIFEST
    if not path.exists():
        return _make(directory, flow)
    descriptor = files.open_file(path, os.O_RDWR)
    try:
        found = _read(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    if found.is_removed:
        os.close(descriptor)
        for number in files.segment_numbers(directory):
            files.segment_path(directory, number).unlink()
        path.unlink()
        return _make(directory, flow)
    if found.flow != flow:
        os.close(descriptor)
        raise OtherFlowsSpoolError(
            f"{directory} holds the spool of flow {found.flow}, not of {flow}: has a directory been copied or renamed? "
            "Put it back where it was, or move it away"
        )
    return ManifestFile(path, descriptor, found)


def _make(directory: Path, flow: str) -> ManifestFile:
    orphans = files.segment_numbers(directory)
    if orphans:
        raise CorruptSpoolError(
            f"{directory} has segments, but its file {files.MANIFEST} is gone, so nobody knows whether they are all: "
            "put that file back, or " + start_anew(directory),
            file=files.MANIFEST,
        )
    manifest = Manifest(flow=flow, spool_id=secrets.token_bytes(16))
    new = directory / files.NEW_MANIFEST
    new.unlink(missing_ok=True)
    descriptor = files.open_file(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        block = manifest.encode().ljust(_SLOT_BYTES, b"\0")
        # Both slots take their space now.
        _, error = files.write_all(descriptor, [block, b"\0" * _SLOT_BYTES], 0)
        if error is not None:
            raise error
        os.fsync(descriptor)
        new.rename(directory / files.MANIFEST)
        files.sync_directory(directory)
    except BaseException:
        os.close(descriptor)
        raise
    return ManifestFile(directory / files.MANIFEST, descriptor, manifest)


def _read(path: Path, descriptor: int) -> Manifest:
    found = []
    for offset in (0, _SLOT_BYTES):
        block = os.pread(descriptor, BLOCK_BYTES, offset)
        try:
            found.append(Manifest.decode(block, what=str(path)))
        except DamagedError:
            # Empty as yet, or the write of it was interrupted: the other one counts.
            continue
    if not found:
        size = os.fstat(descriptor).st_size
        raise CorruptSpoolError(
            f"{path} is damaged in both its places, so nobody knows which segments make up the spool: put it back from "
            "a backup of the whole directory, or " + start_anew(path.parent),
            file=path.name,
            end=size,
        )
    return max(found, key=lambda manifest: manifest.generation)


def mark_removed(directory: Path) -> None:
    """From here on the directory is no spool, whatever is left of it. Raises OSError."""
    path = directory / files.MANIFEST
    if not path.exists():
        return
    descriptor = files.open_file(path, os.O_RDWR)
    try:
        # Whatever stood there, readable or not: both slots say so.
        for generation in (0, 1):
            manifest = Manifest(flow="-", spool_id=bytes(16), generation=generation, is_removed=True)
            files.write_all(descriptor, [manifest.encode()], _slot_of(manifest))
        files.flush(descriptor)
    finally:
        os.close(descriptor)


def _slot_of(manifest: Manifest) -> int:
    return (manifest.generation % 2) * _SLOT_BYTES


def start_anew(directory: Path) -> str:
    """The way on that is always there."""
    return (
        f"remove {directory} and run the same command again: the changes are read from the source once more. Where the "
        "source was told that it may discard them (--ack spooled), they are gone: `dsync reset` the flow and copy anew"
    )
