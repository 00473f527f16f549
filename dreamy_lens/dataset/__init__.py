"""Text to hold dreams against: the documentation that ships with installed Python packages."""

from dreamy_lens.dataset.documentation import PACKAGES, Document, docstrings, is_held_out

__all__ = ["PACKAGES", "Document", "docstrings", "is_held_out"]
