"""Known values, written down before the code: what two answers are worth, beside SQuAD's rule."""

import re
import string
from collections import Counter
from pathlib import Path

import pytest

from tasks.scoring.answer_scores import exact_match, token_f1

# Answer, reference, exact match and token F1, and both by SQuAD's own rule.
Pair = tuple[str, str, float, float, float, float]

ENGLISH: list[Pair] = [
    ("-1", "1", 0, 0, 1, 1),
    ("-.5 to 1", "0.5 to 1", 0, 2 / 3, 0, 2 / 3),
    ("+5", "-5", 0, 0, 1, 1),
    ("±5", "5", 0, 2 / 3, 0, 0),
    ("~5", "5", 0, 2 / 3, 1, 1),
    ("3.14", "314", 0, 0, 1, 1),
    ("1.5", "5.1", 0, 0, 0, 0),
    ("10:30", "30:10", 0, 0, 0, 0),
    ("1e-5", "1e5", 0, 0, 1, 1),
    ("2^10", "210", 0, 0, 1, 1),
    ("1/2", "12", 0, 0, 1, 1),
    ("50%", "50", 0, 2 / 3, 1, 1),
    ("$5", "5", 0, 2 / 3, 1, 1),
    ("$5", "€5", 0, 1 / 2, 0, 0),
    ("-$5", "$5", 0, 4 / 5, 1, 1),
    (">= 3", "< 3", 0, 1 / 2, 1, 1),
    ("x > 0", "x < 0", 0, 2 / 3, 1, 1),
    ("x == y", "x != y", 0, 2 / 3, 1, 1),
    ("x += 1", "x -= 1", 0, 2 / 3, 1, 1),
    ("a + b", "a - b", 0, 2 / 3, 1, 1),
    ("n-1", "n+1", 0, 2 / 3, 1, 1),
    ("a & b", "a | b", 0, 2 / 3, 1, 1),
    ("!ready", "ready", 0, 2 / 3, 1, 1),
    ("x -> y", "x => y", 0, 2 / 3, 1, 1),
    ("C++", "C#", 0, 0, 1, 1),
    ("C++", "C", 0, 0, 1, 1),
    ("A+", "A-", 0, 0, 1, 1),
    ("*args", "args", 0, 0, 1, 1),
    ("**kwargs", "*kwargs", 0, 0, 1, 1),
    ("*, key", "key", 0, 2 / 3, 1, 1),
    ("--verbose", "verbose", 0, 0, 1, 1),
    ("-v", "-q", 0, 0, 0, 0),
    ("@property", "property", 0, 0, 1, 1),
    ("__init__", "init", 0, 0, 1, 1),
    ("is_valid", "isvalid", 0, 0, 1, 1),
    ("json.dumps", "json.dump", 0, 0, 0, 0),
    ("os.path", "path.os", 0, 0, 0, 0),
    ("self._x", "self.x", 0, 0, 1, 1),
    ("Return -1 if x < 0.", "Return 1 if x > 0.", 0, 2 / 3, 1, 1),
    ("the cat", "cat", 0, 2 / 3, 1, 1),
]

KOREAN: list[Pair] = [
    ("수익률 -3%", "수익률 3%", 0, 4 / 5, 1, 1),
    ("50%는", "50는", 0, 4 / 5, 1, 1),
    ("₩500", "$500", 0, 1 / 2, 0, 0),
    ("x >= 0이면", "x < 0이면", 0, 4 / 5, 1, 1),
    ("C++은 빠르다", "C#은 빠르다", 0, 4 / 5, 1, 1),
    ("*args를 받는다", "args를 받는다", 0, 4 / 5, 1, 1),
    ("__init__은 메서드", "init은 메서드", 0, 4 / 5, 1, 1),
    ("서울 시", "서울시", 0, 1, 0, 0),
    ("서울은", "서울", 0, 4 / 5, 0, 0),
    ("5명은", "5명", 0, 4 / 5, 0, 0),
]

GERMAN: list[Pair] = [
    ("−5 °C", "5 °C", 0, 2 / 3, 0, 1 / 2),
    ("+5 Grad", "-5 Grad", 0, 2 / 5, 1, 1),
    ("3,14", "314", 0, 0, 1, 1),
    ("12,5 %", "12,5 €", 0, 1 / 2, 0, 2 / 3),
    ("§ 5", "5", 0, 2 / 3, 0, 2 / 3),
    ("Größe ≥ 3", "Größe ≤ 3", 0, 2 / 3, 0, 2 / 3),
    ("die Option --still", "die Option still", 0, 2 / 3, 1, 1),
]

JAPANESE_AND_CHINESE: list[Pair] = [
    ("気温は-5度", "気温は5度", 0, 4 / 5, 1, 1),
    ("50％", "50", 0, 2 / 3, 0, 0),
    ("x＞0", "x＜0", 0, 2 / 3, 0, 0),
    ("使用C++", "使用C#", 0, 2 / 3, 1, 1),
    ("增长-3%", "增长3%", 0, 3 / 4, 1, 1),
    ("￥100", "＄100", 0, 1 / 2, 0, 0),
    ("东京首都", "首都东京", 0, 1, 0, 0),
]

RUSSIAN: list[Pair] = [
    ("если x > 0", "если x < 0", 0, 3 / 4, 1, 1),
    ("-40 градусов", "40 градусов", 0, 1 / 2, 1, 1),
    ("100 ₽", "100 $", 0, 1 / 2, 0, 2 / 3),
    ("флаг --force", "флаг force", 0, 1 / 2, 1, 1),
    ("ключ __name__", "ключ name", 0, 1 / 2, 1, 1),
]

# These differ in nothing that means something, and must stay equal.
EQUAL: list[Pair] = [
    ("Paris.", "paris", 1, 1, 1, 1),
    ('"Paris"', "Paris", 1, 1, 1, 1),
    ("“Paris”", "'Paris'", 1, 1, 0, 0),
    ("(Paris)", "Paris", 1, 1, 1, 1),
    ("**Paris**", "Paris", 1, 1, 1, 1),
    ("- Paris", "Paris", 1, 1, 1, 1),
    ("Paris - the capital", "Paris, the capital", 1, 1, 1, 1),
    ("Paris — the capital", "Paris, the capital", 1, 1, 0, 4 / 5),
    ("red, green and blue", "red green and blue", 1, 1, 1, 1),
    ("I don’t know.", "I don't know", 1, 1, 0, 2 / 3),
    ("well-known", "well known", 1, 1, 0, 0),
    ("`json.dumps`", "json.dumps", 1, 1, 1, 1),
    ("json.dumps()", "json.dumps", 1, 1, 1, 1),
    ("*args **kwargs", "*args, **kwargs", 1, 1, 1, 1),
    ("x>0", "x > 0", 1, 1, 0, 0),
    ("x ≥ 0", "x >= 0", 1, 1, 0, 4 / 5),
    ("[1, 2, 3]", "1, 2, 3", 1, 1, 1, 1),
    ("1,000", "1000", 1, 1, 1, 1),
    ("−1", "-1", 1, 1, 0, 0),
    (".5", "0.5", 1, 1, 0, 0),
    ("50 %", "50%", 1, 1, 1, 1),
    ("1990–2000", "1990-2000", 1, 1, 0, 0),
    ("서울.", "서울", 1, 1, 1, 1),
    ("‘서울’, ‘부산’", "서울, 부산", 1, 1, 0, 0),
    ("《기생충》", "<기생충>", 1, 1, 0, 0),
    ("2024년에,", "2024년에", 1, 1, 1, 1),
    ("5 명", "5명", 1, 1, 0, 0),
    ("„Berlin“", "Berlin", 1, 1, 0, 0),
    ("Straße", "STRASSE", 1, 1, 0, 0),
    ("東京。", "東京", 1, 1, 0, 0),
    ("「東京」", "東京", 1, 1, 0, 0),
    ("你好，世界", "你好 世界", 1, 1, 0, 0),
    ("Ｃ＋＋", "C++", 1, 1, 0, 0),
    ("«Москва»", "Москва!", 1, 1, 0, 0),
    ("Café", "Cafe\u0301", 1, 1, 0, 0),
]

DIFFERENT = [*ENGLISH, *KOREAN, *GERMAN, *JAPANESE_AND_CHINESE, *RUSSIAN]


def squad_normal(text: str) -> str:
    """SQuAD's `normalize_answer` (evaluate-v2.0.py): no ASCII punctuation, no English articles."""
    bare = "".join(one for one in text.lower() if one not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def squad_scores(output: str, reference: str) -> tuple[float, float]:
    """SQuAD's exact match and F1: of words between spaces."""
    found, expected = squad_normal(output).split(), squad_normal(reference).split()
    common = (Counter(found) & Counter(expected)).total()
    whole = len(found) + len(expected)
    f1 = 2 * common / whole if found and expected else float(found == expected)
    return float(found == expected), f1


def test_there_are_enough_pairs_in_enough_languages() -> None:
    assert len(DIFFERENT) >= 60
    assert len(EQUAL) >= 20
    assert len({pair[:2] for pair in (*DIFFERENT, *EQUAL)}) == len(DIFFERENT) + len(EQUAL)


@pytest.mark.parametrize(("output", "reference"), [pair[:2] for pair in (*DIFFERENT, *EQUAL)])
def test_each_pair_has_its_known_values(output: str, reference: str) -> None:
    [known] = [pair for pair in (*DIFFERENT, *EQUAL) if pair[:2] == (output, reference)]
    for one, other in ((output, reference), (reference, output)):
        assert (exact_match(one, other), token_f1(one, other)) == pytest.approx(known[2:4])


@pytest.mark.parametrize("pair", [*DIFFERENT, *EQUAL])
def test_squads_own_rule_gives_what_stands_beside(pair: Pair) -> None:
    assert squad_scores(*pair[:2]) == pytest.approx(pair[4:])


def test_the_documentation_shows_what_the_code_gives() -> None:
    page = Path("docs/reference/scoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.M)
    assert len(rows) > 20
    known = {pair[:2]: pair[2:] for pair in (*DIFFERENT, *EQUAL)}
    for output, reference, *told in rows:
        assert [float(value) for value in told] == pytest.approx(known[output, reference], abs=0.01)
