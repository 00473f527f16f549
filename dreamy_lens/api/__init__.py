"""Public functions of the package, one module for each group."""
