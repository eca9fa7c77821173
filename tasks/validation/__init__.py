"""Validation: raw rows in, accepted rows out; bad rows leave with a reason."""
