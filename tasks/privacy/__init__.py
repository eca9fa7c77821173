"""Personal data and secrets in texts; no torch."""
