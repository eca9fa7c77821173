"""Promotion: evidence in files in, a verdict and its reasons out."""
