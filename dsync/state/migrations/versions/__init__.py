"""The revisions. Once released, one is never changed: states of that release are still opened."""
