"""Following a source: read its changes as they come, apply them in rounds, let it discard what is durable."""
