"""Measurements side by side: `python -m benchmarks.run`, or `make bench`. See docs/benchmarks.md."""
