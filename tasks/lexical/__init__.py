"""BM25, and how text is cut for it; no torch."""
