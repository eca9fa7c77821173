"""The tiny models and data of the unit tests, for what is done to them here."""

from tests.unit.conftest import empty_store, prompting, reigned_store, tiny, tokens

__all__ = ["empty_store", "prompting", "reigned_store", "tiny", "tokens"]
