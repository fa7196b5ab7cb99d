"""The main program of a plug-in's process: `python -m dsync.plugins.child`, started by `PluginProcess` alone.

It prepares a quick start and leaves the rest to `dsync.plugins.child_server`. Every command of a user waits for this
process, and most of its time goes into imports.
"""

from __future__ import annotations

import gc
import importlib
import sys


def main() -> int:
    """Serve the job that standard input brings; returns the exit code."""
    # Imports make objects that stay: looking through them for garbage again and again is a tenth of the start.
    gc.disable()
    _import_structlog_without_rich()
    from dsync.plugins import child_server

    return child_server.main()


def _import_structlog_without_rich() -> None:
    """Keep structlog from loading rich for colourful consoles, which this process has none of: 0.1 s saved.

    Whoever imports rich later gets it.
    """
    absent = "rich" not in sys.modules
    if absent:
        sys.modules["rich"] = None  # type: ignore[assignment]  # None is how the import system notes "not there"
    try:
        importlib.import_module("structlog")
    finally:
        if absent:
            del sys.modules["rich"]


if __name__ == "__main__":
    sys.exit(main())
