"""PostgreSQL as a source: the snapshot, its plan, pages, and what may stay after it was lost."""
