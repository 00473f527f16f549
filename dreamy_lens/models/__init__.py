"""Models: how they are loaded, run and hooked, their vocabularies, and the model that ships with the package."""
