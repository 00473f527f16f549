"""Features: scalar functions of a prompt, as values that need no model until they are bound to one."""
