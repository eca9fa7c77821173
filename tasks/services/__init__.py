"""What touches the world shares: MLflow's stores, child processes, loopback."""
