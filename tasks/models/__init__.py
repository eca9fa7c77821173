"""Base models: their store, loading, numeric forms, memory and provenance."""
