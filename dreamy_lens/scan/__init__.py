"""Scans of a corpus: the strongest windows of every feature, its distribution, and the tables that keep them."""
