"""Metric modules for `evaluate.load(PATH)`, offline; each wraps one score of `scores.py`.

One import a line, and absolute: the import parser of `evaluate` reads nothing else.
"""
