"""Served questions and answers as MLflow traces, and what people said of them."""
