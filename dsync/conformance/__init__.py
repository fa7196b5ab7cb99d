"""The conformance kit: examines any `adiom.v1` connector, and what it serves of `dsync.v1`."""

from dsync.conformance.check import Check
from dsync.conformance.checks import CHECKS
from dsync.conformance.examine import examine
from dsync.conformance.options import ExamineOptions
from dsync.conformance.outcomes import Outcome
from dsync.conformance.report import CheckResult, Report, render

__all__ = ["CHECKS", "Check", "CheckResult", "ExamineOptions", "Outcome", "Report", "examine", "render"]
