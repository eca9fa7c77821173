"""Records and documents: their formats, readers and writers. Nothing here imports torch."""
