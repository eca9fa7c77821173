"""Sentence embeddings, and a memo of them."""
