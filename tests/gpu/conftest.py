"""The tiny models and data of the unit tests, for what a GPU does with them."""

from tests.unit.conftest import tiny

__all__ = ["tiny"]
