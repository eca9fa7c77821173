"""Metric modules for `evaluate.load(PATH)`, offline; each wraps functions of this package.

What a module cannot compute is null in its result, the reason beside it under `NAME_reason`. One
import a line, and absolute: the import parser of `evaluate` reads nothing else.
"""
