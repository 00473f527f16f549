"""Formats in which dictionaries are released: one module for each format, and what they share.

A module of a format has one function `open_NAME(folder, whose)`, which returns an
:class:`~dreamy_lens.features.sae.formats.encoder.Opened`: the settings of the computation, a function that reads the
tensors under the names of SAELens, and the conditions of the training under the keys of SAELens. What a format does not
state is left out, and never invented. `folders` recognises a format by the names of the files.
"""
