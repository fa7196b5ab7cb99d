"""Servers to try dsync on: embedded PostgreSQL and a database that looks real."""
