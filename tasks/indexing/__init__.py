"""Indexing: documents cut into passages, with a BM25 index and dense vectors."""
