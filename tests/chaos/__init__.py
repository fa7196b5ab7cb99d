"""A flow under random writes, schema changes and faults, which must end with both ends equal."""
