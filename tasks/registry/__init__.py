"""The MLflow registry and the ledger of its decisions."""
