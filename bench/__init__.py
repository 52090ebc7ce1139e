"""Vintner measured beside what it stands on: `python -m bench`, from the root of the repository."""
