"""Checksums of PostgreSQL tables, computed at the server."""
