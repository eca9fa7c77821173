"""Serving: the answering core, and the agent that MLflow loads."""
