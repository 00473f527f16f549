"""Training of the embedded model: data, recipe, optimizer, evaluation, export. Not part of the wheel."""
