"""The version of dsync that is running, as written into the state."""

from __future__ import annotations

from importlib import metadata


def dsync_version() -> str:
    try:
        return metadata.version("dsync-coordinator")
    except metadata.PackageNotFoundError:
        # Run from a checkout that is not installed.
        return "unreleased"
