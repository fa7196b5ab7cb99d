"""Comparison of two ends: `verify()` gives a `VerifyReport`."""

from dsync.verify.events import NamespaceCompared, RowsCompared, RowsSettling
from dsync.verify.options import Key, VerifyOptions
from dsync.verify.progress import ProgressStore
from dsync.verify.render import render
from dsync.verify.report import (
    ColumnDifference,
    Counts,
    Difference,
    Kind,
    Method,
    NamespaceReport,
    VerifyReport,
)
from dsync.verify.verifier import verify

__all__ = [
    "ColumnDifference",
    "Counts",
    "Difference",
    "Key",
    "Kind",
    "Method",
    "NamespaceCompared",
    "NamespaceReport",
    "ProgressStore",
    "RowsCompared",
    "RowsSettling",
    "VerifyOptions",
    "VerifyReport",
    "render",
    "verify",
]
