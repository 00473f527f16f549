"""Frontier search: an archive of prompts, and moves that are ranked by what they are predicted to do."""
