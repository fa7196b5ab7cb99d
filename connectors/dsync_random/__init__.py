"""A source of made-up documents, the same ones for the same options: for tests and benchmarks without a database."""
