"""Rows as documents and back, on real servers."""
