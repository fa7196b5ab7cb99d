"""The wire contract in Python: our own value types, the interface of a plug-in, and gRPC at both ends.

Generated code lives in `dsync.protocol._gen` and is imported by nothing outside this package.
"""

import os

# gRPC's C core writes lines of its own to standard error, past every log format; what they tell arrives as an error
# too. Read once, when grpc is first imported, which happens below this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
