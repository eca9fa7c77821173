"""Curation: accepted rows in; no duplicates, stable splits and a lineage out."""
