"""What touches the world shares: MLflow's stores, child processes, loopback."""

HOST = "127.0.0.1"  # what every server of ours listens on, unless told otherwise
