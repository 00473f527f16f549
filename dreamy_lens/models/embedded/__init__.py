"""The embedded model: a small GPT-NeoX trained on Python's documentation, shipped inside the package."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_NAME = "embedded"
"""Name of the embedded model in results."""

NAME = "docstrings-neox-5m"
FOLDER = Path(__file__).parent / NAME
"""Hugging Face folder with weights, tokenizer and model card."""
