"""Evaluation: systems x modes on the held-out split, with the evidence that promotion reads."""
