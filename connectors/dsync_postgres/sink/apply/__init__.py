"""Applying changes: what has happened at a source, done again at the sink."""
