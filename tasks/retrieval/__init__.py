"""The index: BM25 and dense vectors, filters, and a second look by a cross-encoder."""
