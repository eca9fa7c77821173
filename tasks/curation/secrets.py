"""Secrets in a text: keys and tokens of known formats, private keys, passwords beside their name.

The formats are those that the issuers publish for secret scanners; each has a prefix or a shape
that nothing else has, so an ordinary hash or identifier is none.
"""

from collections.abc import Iterator

import regex

Span = tuple[int, int]

_BARE = r"(?<![A-Za-z0-9_])"
_END = r"(?![A-Za-z0-9_])"

# By what each must hold, which is looked for first: that is many times faster than the patterns.
_FORMATS = {
    ("PRIVATE KEY",): r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]{0,8000}?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]*)",
    # AWS
    ("A3T", "ABIA", "ACCA", "AKIA", "ASIA"): rf"{_BARE}(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)"
    rf"[0-9A-Z]{{16}}{_END}",
    # Azure storage
    ("AccountKey=",): r"(?<=AccountKey=)[A-Za-z0-9+/]{80,}={0,2}",
    # GitHub
    ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"): rf"{_BARE}gh[pousr]_[A-Za-z0-9]{{36,255}}{_END}",
    ("github_pat_",): rf"{_BARE}github_pat_[A-Za-z0-9_]{{22,255}}{_END}",
    # GitLab
    ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "glcbt-", "glptt-", "glagent-", "gloas-"): (
        r"(?<![A-Za-z0-9])gl(?:pat|dt|ft|soat|rt|cbt|ptt|agent|oas)-[A-Za-z0-9_\-]{20,255}"
    ),
    # Google
    ("AIza",): rf"{_BARE}AIza[0-9A-Za-z_\-]{{35}}(?![A-Za-z0-9_\-])",
    # OpenAI, Anthropic and those who took their form
    ("sk-",): rf"{_BARE}sk-(?:[a-z]{{2,10}}[0-9]*-)*[A-Za-z0-9_\-]{{20,200}}",
    # Hugging Face
    ("hf_",): rf"{_BARE}hf_[A-Za-z]{{30,40}}{_END}",
    # Slack
    ("xox",): r"(?<![A-Za-z0-9])xox[abeoprs]-(?:[A-Za-z0-9]+-)+[A-Za-z0-9]{10,}",
    ("hooks.slack.com",): r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{20,}",
    # Stripe
    ("k_live_", "k_test_"): rf"{_BARE}[rs]k_(?:live|test)_[0-9a-zA-Z]{{16,255}}{_END}",
    # SendGrid
    ("SG.",): r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}",
    # npm, PyPI
    ("npm_",): rf"{_BARE}npm_[A-Za-z0-9]{{36}}{_END}",
    ("pypi-",): rf"{_BARE}pypi-[A-Za-z0-9_\-]{{70,}}",
    # Telegram
    (":AA",): r"(?<![\w.])[0-9]{8,10}:AA[0-9A-Za-z_\-]{33}(?![\w\-])",
    # JSON web tokens
    ("eyJ",): rf"{_BARE}eyJ[A-Za-z0-9_\-]{{10,}}\.eyJ[A-Za-z0-9_\-]{{10,}}(?:\.[A-Za-z0-9_\-]+)?",
}
_KNOWN = {marks: regex.compile(pattern) for marks, pattern in _FORMATS.items()}
# A password in an address: what stands between the colon and the last @ before the host.
_IN_ADDRESS = regex.compile(r"(?<=://[^\s:/@\"'<>]{0,64}:)[^\s/@\"'<>{}\[\]]{3,}(?=@[A-Za-z0-9\[])")
_NAMED = regex.compile(
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_\-]?key|access[_\-]?key|credentials?"
    r"|비밀번호|비번|암호|인증키)[\w\-]{0,20}[\"']?(?:[ \t]*(?:[:=]|은|는|is)[ \t]*){1,2}[\"']?"
    r"(?P<value>[^\s\"',;()<>\[\]{}|]{8,})",
    regex.IGNORECASE,
)
_BEARER = regex.compile(r"\b[Bb]earer[ \t]+(?P<value>[A-Za-z0-9._~+/\-]{20,}=*)")
# A value beside such a name is a secret where it looks made, not said: digits and letters mixed.
_MADE = regex.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])(?!(?:https?|file|ftp)://)[!-~]+")
_NAMES = ("pass", "pwd", "secret", "token", "key", "cred", "비밀번호", "비번", "암호", "인증키")


def find_secrets(text: str) -> Iterator[Span]:
    """The places of secrets in a text; they may overlap."""
    for marks, pattern in _KNOWN.items():
        if any(mark in text for mark in marks):
            yield from (match.span() for match in pattern.finditer(text))
    if "://" in text and "@" in text:
        yield from (match.span() for match in _IN_ADDRESS.finditer(text))
    yield from _beside_a_name(text)


def _beside_a_name(text: str) -> Iterator[Span]:
    """Values that look made and stand after a name like `password`, or after `Bearer`."""
    folded = text.casefold()
    if any(name in folded for name in _NAMES):
        for match in _NAMED.finditer(text):
            if _MADE.fullmatch(match["value"]):
                yield match.span("value")
    if "earer" in text:
        for match in _BEARER.finditer(text):
            if _MADE.fullmatch(match["value"]):
                yield match.span("value")
