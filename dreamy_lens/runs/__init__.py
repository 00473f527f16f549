"""Runs of the search: how they start, go on, stop, and are saved."""
