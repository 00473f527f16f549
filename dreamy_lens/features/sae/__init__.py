"""Dictionaries: sparse autoencoders and transcoders, their latents, and the files and places that they come from.

`loading` opens a folder, a text that names a place (`names`, `sources`), or an object; `formats` reads the formats in
which dictionaries are released; `dictionary` is what they become, and `arithmetic` computes its latents. `conditions`
are those of the training, and `fit` keeps them for a model or refuses it.
"""
