"""Tokens and a teacher in, a student with fewer layers out."""
