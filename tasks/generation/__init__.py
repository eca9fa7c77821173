"""One generation routine, with continuous batching."""
