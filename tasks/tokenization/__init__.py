"""Curated records in, token ids out: prompts rendered by one template, only the answer learned."""
