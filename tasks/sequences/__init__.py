"""Examples, packs of them, and how likely a model finds their answers."""
