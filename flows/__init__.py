"""Flows."""

HOST = "127.0.0.1"  # what every server of ours listens on, unless told otherwise
EXIT_FAILED, EXIT_REFUSED = 1, 3  # of commands: it failed; what was asked for was refused
