"""Plotly figures of results, to be restyled and printed: pure functions, each of which returns a new figure.

Plotly is imported when a figure is made, not before.
"""
