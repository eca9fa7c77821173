"""Flows."""

EXIT_FAILED, EXIT_REFUSED = 1, 3  # of commands: it failed; what was asked for was refused
