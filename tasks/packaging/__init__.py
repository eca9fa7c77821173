"""Packaging: the release bundle, answered from once as it will be served, and its model card."""
