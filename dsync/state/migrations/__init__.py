"""The schema of the store, one revision a release that changed it; applied by `upgrade` when a state is opened."""
