"""Building blocks of static pages: markup, escaping, numbers, token strips, cards and drawings."""
