"""The main program of a plug-in's process: `python -m dsync.plugins.child`, started by `PluginProcess` alone.

It prepares a quick start and leaves the rest to `dsync.plugins.child_server`. Every command of a user waits for this
process, and most of its time goes into imports.
"""

from __future__ import annotations

import sys

from dsync.quick_start import begin_imports, structlog_without_rich


def main() -> int:
    """Serve the job that standard input brings; returns the exit code."""
    begin_imports()
    structlog_without_rich()
    from dsync.plugins import child_server

    return child_server.main()


if __name__ == "__main__":
    sys.exit(main())
