"""Text as hashes, profiles and curation see it.

One stable hash, from which splits, samples and orders come; one normalisation and one tokenizer
for every script. What scores compare is told in `tasks.scoring.tokens`."""

import hashlib
import unicodedata

import regex


def text_sha256(*parts: str) -> str:
    """Return the SHA-256 of several texts, in hex; their boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def hash_share(key: str, salt: str) -> float:
    """Return a number in [0, 1) that depends on a key and a salt alone, uniform over keys."""
    return int(text_sha256(salt, key)[:13], 16) / 16**13


def id_form(name: str) -> str:
    """Return an id in NFC, the form in which ids are compared: a Mac writes file names in NFD."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


# Scripts written with few or no spaces, as the inside of a character class.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Hangul}\u30fc\uff70"

# What a decoder writes for bytes that are no character.
BROKEN = "\ufffd"

# A broken character is never punctuation: it must not make a broken text equal to a sound one.
_EDGES = regex.compile(rf"^(?:[^\w{BROKEN}]|_)+|(?:[^\w{BROKEN}]|_)+$")

_TOKENS = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^\W{UNSPACED}]+|{BROKEN}")


def normalise(text: str) -> str:
    """Return the text in NFKC, casefolded, every run of white space one space, none at the ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Casefolding can undo NFKC (a Greek iota subscript, for one), so it is applied again.
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def bare(text: str) -> str:
    """Return the normalised text without punctuation and spaces at its ends, for exact comparison.

    A text of punctuation alone (an operator, say) stays as it is: it means something then.
    """
    normal = normalise(text)
    return _EDGES.sub("", normal) or normal


def text_tokens(text: str) -> list[str]:
    """Return the tokens by which rows are measured: Han, kana, Thai and Hangul by character, else
    words, without punctuation and symbols.

    A character that was lost in decoding is a token of its own. A text with no token (an operator,
    say) counts its characters that are not spaces.
    """
    normal = normalise(text)
    return _TOKENS.findall(normal) or [character for character in normal if not character.isspace()]
