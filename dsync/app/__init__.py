"""The parts, wired: what the command line calls, and later an API. A request goes in, a result and events come out."""
