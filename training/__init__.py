"""Training of the embedded model: data, recipe, optimizer, evaluation, export, card. Not part of the wheel."""
