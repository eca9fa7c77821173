"""Intervals and paired comparisons. Nothing here imports torch."""
