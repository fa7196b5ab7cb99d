"""Parts of the PostgreSQL connector that need no server."""
