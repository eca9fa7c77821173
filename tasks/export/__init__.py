"""Export: a released model in the forms that other programs load, read back before it counts."""
