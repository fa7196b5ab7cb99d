"""PostgreSQL as a sink: the ledger, writes, and the schema before and after the load."""
