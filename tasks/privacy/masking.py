"""Personal data and secrets in texts: found, and masked by a placeholder that names the kind.

Secrets are keys and tokens of known formats, private keys, and passwords beside their name.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

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
    """Yield the places of secrets in a text; they may overlap."""
    for marks, pattern in _KNOWN.items():
        if any(mark in text for mark in marks):
            yield from (match.span() for match in pattern.finditer(text))
    if "://" in text and "@" in text:
        yield from (match.span() for match in _IN_ADDRESS.finditer(text))
    yield from _beside_a_name(text)


def _beside_a_name(text: str) -> Iterator[Span]:
    """Yield values that look made and stand after a name like `password`, or after `Bearer`."""
    folded = text.casefold()
    if any(name in folded for name in _NAMES):
        for match in _NAMED.finditer(text):
            if _MADE.fullmatch(match["value"]):
                yield match.span("value")
    if "earer" in text:
        for match in _BEARER.finditer(text):
            if _MADE.fullmatch(match["value"]):
                yield match.span("value")


# In the order in which they win where two want the same characters.
KINDS = ("secret", "resident_number", "card", "iban", "email", "phone")

# Full-width forms read as ASCII; one character each, so that places stay what they are.
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}

_EMAIL = regex.compile(
    r"(?<![A-Za-z0-9._%+\-/=@])[A-Za-z0-9](?:[A-Za-z0-9._%+\-']{0,62}[A-Za-z0-9_+\-])?"
    r"@(?!self\.|cls\.)(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9_\-(@])"
)

_SCP_ADDRESS = regex.compile(r":[\w~./\-]")  # git@host:path is where code lies, not a person

_DIGITS = regex.compile(r"[0-9](?:[ .\-()/~]{0,3}[0-9]){6}")

_CARD = regex.compile(
    r"(?<![0-9A-Za-z.\-])[2-69][0-9]{3}(?P<gap>[ \-]?)[0-9](?:(?P=gap)?[0-9]){7,14}"
    r"(?![0-9A-Za-z]|[.\-][0-9])"
)

_ISSUERS = regex.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # Amex, JCB
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12,15}|62[0-9]{14,17}|9[0-9]{15}"  # Discover ... BC
)

_IBAN = regex.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]){11,30}(?![0-9a-z])")

_WORD = regex.compile(r"[A-Za-z0-9]")

_RESIDENT = regex.compile(
    r"(?<![0-9A-Za-z.\-])(?P<birth>[0-9]{6})(?P<dash>[ ]?[\-–][ ]?)?(?P<rest>[1-8][0-9]{6})"
    r"(?![0-9A-Za-z]|[.\-][0-9])"
)

_RESIDENT_WORD = regex.compile(
    r"주민|외국인\s?등록|resident registration|\bRRN\b", regex.IGNORECASE
)

_REFORM = date(2020, 10, 1)  # from then on the last six digits are random: no checksum


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data: its kind and its place, `text[start:end]`."""

    kind: str
    start: int
    end: int


def find_personal_data(text: str, kinds: Sequence[str], regions: Sequence[str]) -> list[Found]:
    """Return what of the kinds a text holds, in order, without overlaps.

    `regions` are the countries (ISO 3166) whose phone numbers are known without a country code.
    """
    wide = text if text.isascii() else text.translate(_WIDE)
    has_digits = bool(_DIGITS.search(wide))
    finders: dict[str, Callable[[str], Iterator[Span]]] = {
        "secret": find_secrets,
        "resident_number": _resident_numbers if has_digits else _nothing,
        "card": _cards if has_digits else _nothing,
        "iban": _ibans,
        "email": _emails if "@" in wide else _nothing,
        "phone": (lambda text: _phones(text, regions)) if has_digits else _nothing,
    }
    found: list[Found] = []
    for kind in KINDS:
        if kind in kinds:
            for start, end in finders[kind](wide):
                if all(end <= other.start or other.end <= start for other in found):
                    found.append(Found(kind, start, end))
    return sorted(found, key=lambda item: item.start)


def masked(text: str, kinds: Sequence[str], regions: Sequence[str]) -> tuple[str, Counter[str]]:
    """Return the text with a placeholder (`[EMAIL]`) a piece found, and how many of each kind."""
    found = find_personal_data(text, kinds, regions)
    for item in reversed(found):
        text = f"{text[: item.start]}[{item.kind.upper()}]{text[item.end :]}"
    return text, Counter(item.kind for item in found)


def masking_kinds(actions: Mapping[str, str]) -> tuple[str, ...]:
    """Return the kinds that an action is set for, in the order in which they win."""
    return tuple(kind for kind in KINDS if actions[kind] != "keep")


def _nothing(_: str) -> Iterator[Span]:
    return iter(())


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        if not (match.group().startswith("git@") or _SCP_ADDRESS.match(text, match.end())):
            yield match.span()


def _cards(text: str) -> Iterator[Span]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        number = regex.sub(r"[ \-]", "", match.group())
        if _ISSUERS.fullmatch(number) and luhn.is_valid(number):
            yield match.span()


def _ibans(text: str) -> Iterator[Span]:
    """Yield the longest valid number that starts at each place; words may follow at once."""
    for match in _IBAN.finditer(text):
        for end in range(match.end(), match.start() + 14, -1):
            if _is_iban(text[match.start() : end]) and not _WORD.match(text, end):
                yield match.start(), end
                break


def _is_iban(text: str) -> bool:
    from stdnum import iban

    return text[-1] not in " -" and bool(iban.is_valid(text, check_country=False))


def _resident_numbers(text: str) -> Iterator[Span]:
    from stdnum.kr import rrn

    for match in _RESIDENT.finditer(text):
        number = match["birth"] + match["rest"]
        born = _birth_date(number)
        if born is None:
            continue
        named = _RESIDENT_WORD.search(text, max(match.start() - 40, 0), match.start())
        checked = rrn.is_valid(number) or _is_foreign(number)
        random = match["dash"] is not None and born >= _REFORM
        if named or checked or random:
            yield match.span()


def _birth_date(number: str) -> date | None:
    """Return the day of birth, None where it is no day; what day it is today must not count."""
    century = 1900 if number[6] in "1256" else 2000
    try:
        born = date(century + int(number[:2]), int(number[2:4]), int(number[4:6]))
    except ValueError:
        return None
    return born


def _is_foreign(number: str) -> bool:
    """Return whether the checksum is that of a foreign resident's number."""
    weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
    total = sum(weight * int(digit) for weight, digit in zip(weights, number, strict=False))
    return number[6] in "5678" and (13 - total % 11) % 10 == int(number[12])


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Yield numbers that are valid in their country and written as a phone number is.

    A bare run of digits counts as a mobile number of 11 digits and more that leads with 0; others
    are integers.
    """
    from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType, number_type

    seen: set[Span] = set()
    for region in regions:
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING):
            span = (match.start, match.end)
            raw = match.raw_string
            is_mobile = number_type(match.number) == PhoneNumberType.MOBILE
            bare = raw.isdigit() and not (is_mobile and raw[0] == "0" and len(raw) >= 11)
            if span not in seen and not bare:
                seen.add(span)
                yield span
