"""Stable hashes of text: the one source of splits, samples and orders."""

import hashlib


def text_sha256(*parts: str) -> str:
    """The SHA-256 of several texts, in hex; their boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def hash_share(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on a key and a salt alone, uniform over keys."""
    return int(text_sha256(salt, key)[:13], 16) / 16**13
