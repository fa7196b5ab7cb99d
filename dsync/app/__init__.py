"""The parts, wired: what the command line calls, and later an API. A request goes in, a result and events come out."""

from dsync.quick_start import structlog_without_rich

# Before any other module of ours asks for it.
structlog_without_rich()
