"""What a cut-over asks of a PostgreSQL server, at either end."""
