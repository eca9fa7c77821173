"""Whether two JSON values say the same."""

import unicodedata
from typing import Any


def same_json(one: Any, other: Any) -> bool:
    """Return whether two values are equal as JSON.

    The order of keys, the form of numbers (1, 1.0, 10e-1) and that of Unicode don't count; true is
    no 1, and "1" neither.
    """
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case (int() | float(), int() | float()):
            return bool(one == other)
        case (str(), str()):
            return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
        case (list(), list()):
            return len(one) == len(other) and all(map(same_json, one, other))
        case (dict(), dict()):
            return one.keys() == other.keys() and all(same_json(one[k], other[k]) for k in one)
    return one is None and other is None
