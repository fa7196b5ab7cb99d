"""The wire contract in Python: our own value types, the interface of a plug-in, and gRPC at both ends.

Generated code lives in `dsync.protocol._gen` and is imported by nothing outside this package.
"""
