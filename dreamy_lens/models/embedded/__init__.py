"""The embedded model: a small GPT-NeoX trained on Python's documentation, shipped inside the package."""

from __future__ import annotations

from pathlib import Path

NAME = "docstrings-neox-5m"
FOLDER = Path(__file__).parent / NAME
"""Hugging Face folder with weights, tokenizer and model card."""
