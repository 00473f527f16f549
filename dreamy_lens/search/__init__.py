"""Evolutionary Prompt Optimization: proposals, constraints, selection, restarts, the loop."""
