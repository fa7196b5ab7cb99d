"""Without superuser: what works, and what is said of the rest."""
