"""A base tried before a night relies on it: what its parts are, and what each stage will meet."""
