"""What an answer is worth: scores, grounding, parity, and the identity of a scoring; no torch."""
