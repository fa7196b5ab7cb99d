"""What makes a process start quickly: every command waits for the imports of up to three of them.

Imports nothing by itself.
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any


def begin_imports() -> None:
    """Put off the collector while modules are imported: what they make stays, and looking through it takes a tenth."""
    gc.disable()


def end_imports() -> None:
    """Let the collector see to what comes from now on, and never again to what is there. Does nothing where it runs."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def begin_exit() -> None:
    """Keep the interpreter from collecting what ends with the process anyway: 0.15 s of processor time."""
    gc.freeze()


def structlog_without_rich() -> Any:
    """structlog, which would import rich and pygments for tracebacks that we do not want: 0.1 s.

    The pretty ones print local variables, in which there are records and passwords. Whoever imports rich later gets it.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return importlib.import_module("structlog")
    sys.modules["rich"] = None  # type: ignore[assignment]  # None is how the import system notes "not there"
    try:
        return importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
