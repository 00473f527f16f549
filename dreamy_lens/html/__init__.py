"""Static building blocks of pages: markup, escaping, numbers, token strips, drawings."""
