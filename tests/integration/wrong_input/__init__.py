"""What wrong input gets: a message that helps, the right exit code, and nothing half-done."""
