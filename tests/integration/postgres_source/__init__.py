"""The source half of the PostgreSQL connector, against real servers."""
