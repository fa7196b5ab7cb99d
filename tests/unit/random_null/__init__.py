"""The source and the sink that need no database."""
