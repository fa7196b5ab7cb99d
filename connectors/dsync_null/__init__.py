"""A sink that counts what it is given and keeps none of it: for tests and benchmarks without a database."""
