"""The tiny models and data of the unit tests, for what is done to them here."""

from tests.unit.conftest import prompting, tiny, tokens

__all__ = ["prompting", "tiny", "tokens"]
