"""Rows as documents and back, without a server."""
