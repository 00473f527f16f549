"""Prompts in, numbers out: every forward and backward pass of the package happens here."""
