"""Flows."""

HOST = "127.0.0.1"  # what every server of ours listens on, unless told otherwise
