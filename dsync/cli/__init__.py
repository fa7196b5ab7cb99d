"""The command line: parse, call `dsync.app`, print."""
