"""Questions about documented names, by kind: purpose, name, parameters and unanswerable."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.text import hash_share, text_sha256

UNKNOWN = "I don't know."
# A record is kept only where its answer stands among the document's first words, so that the first
# passage of a document is enough to answer from.
READABLE_WORDS = 46
_SUMMARY_CHARACTERS = (20, 160)
_PARAMETER_CHARACTERS = 120
_MOST_PARAMETERS = 8
_GAP = "___"
_PURPOSE = (
    "What does {name} do?",
    "What is {name} for?",
    "What is the purpose of {name}?",
    "Describe {name} in one sentence.",
)
_PARAMETERS = (
    "What parameters does {name} take?",
    "Which arguments does {name} accept?",
    "List the parameters of {name}.",
    "With which parameters is {name} called?",
)
_NAME = (
    'Which {kind} of {owner} is described as "{summary}"?',
    'What is the {kind} of {owner} called that does this: "{summary}"?',
    'Name the {kind} of {owner} with this description: "{summary}"',
)
_ABBREVIATIONS = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|incl|resp|no|fig)\.$", re.IGNORECASE)


@dataclass(frozen=True)
class QuestionSubject:
    """A documented name as questions need it; `parameters` is None where no signature is known."""

    name: str
    owner: str
    kind: str
    text: str
    summary: str | None
    parameters: tuple[str, ...] | None


def question_records(
    entries: Sequence[QuestionSubject], names: set[str], *, unanswerable_share: float
) -> list[dict[str, Any]]:
    """Return raw records about the entries, and about names that are not among `names`.

    Each entry gives one question of every kind that its text answers.
    """
    described = Counter((entry.owner, entry.summary) for entry in entries)
    answerable: list[dict[str, Any]] = []
    for entry in entries:
        makers = {
            "purpose": _purpose(entry),
            "parameters": _parameters(entry),
            "name": _name(entry) if described[entry.owner, entry.summary] == 1 else None,
        }
        answerable += [_answerable(row, kind, entry) for kind, row in makers.items() if row]
    count = round(len(answerable) * unanswerable_share / (1 - unanswerable_share))
    return answerable + _unanswerable(entries, names, count)


def first_sentence(body: str) -> str | None:
    """Return the first sentence of a text on one line, None if it makes no answer."""
    paragraph = " ".join(body.partition("\n\n")[0].split())
    end = len(paragraph)
    for match in re.finditer(r"[.!?](?=\s+[A-Z(\[`'\"]|$)", paragraph):
        if not _ABBREVIATIONS.search(paragraph[: match.end()]):
            end = match.end()
            break
    sentence = paragraph[:end].rstrip(" :;,")
    return sentence if _is_answer(sentence) else None


def _is_answer(sentence: str) -> bool:
    """Return whether a sentence is short prose: no code, no bracket or quote left open."""
    shortest, longest = _SUMMARY_CHARACTERS
    fits = shortest <= len(sentence) <= longest and len(sentence.split()) >= 4
    reads = re.match(r"[A-Za-z](?!\w*\()", sentence) is not None
    is_code = re.search(r"[|={}<>]\S*$|::|->|\[,", sentence) is not None
    is_balanced = all(sentence.count(a) == sentence.count(b) for a, b in ("()", "[]"))
    return fits and reads and not is_code and is_balanced and sentence.count('"') % 2 == 0


def _answerable(row: tuple[str, str], kind: str, entry: QuestionSubject) -> dict[str, Any]:
    question, answer = row
    return {
        "id": f"{kind}/{entry.name}",
        "question": question,
        "answer": answer,
        "documents": [entry.name],
        "slice": kind,
        "group": entry.name,
    }


def _purpose(entry: QuestionSubject) -> tuple[str, str] | None:
    if entry.summary is None or entry.summary not in _beginning(entry):
        return None
    return _worded(_PURPOSE, entry.name).format(name=entry.name), entry.summary


def _parameters(entry: QuestionSubject) -> tuple[str, str] | None:
    if not entry.parameters or len(entry.parameters) > _MOST_PARAMETERS:
        return None
    answer = ", ".join(entry.parameters)
    if len(answer) > _PARAMETER_CHARACTERS or not _stands_in(entry.parameters, _beginning(entry)):
        return None
    return _worded(_PARAMETERS, entry.name).format(name=entry.name), answer


def _name(entry: QuestionSubject) -> tuple[str, str] | None:
    if entry.summary is None:
        return None
    summary = masked(entry.summary, entry.name)
    if len(summary.replace(_GAP, "").split()) < 4:
        return None
    return _name_question(entry.name, entry.kind, entry.owner, summary), entry.name


def _name_question(key: str, kind: str, owner: str, summary: str) -> str:
    wording = _worded(_NAME, key)
    return wording.format(kind=kind, owner=owner, summary=summary.rstrip(".").replace('"', "'"))


def masked(summary: str, name: str) -> str:
    """Return the summary with a gap wherever it says the name or the name's last part."""
    last = name.rpartition(".")[2]
    if last.casefold() not in summary.casefold():  # most do not, and each name is a new expression
        return summary
    said = rf"(?<!\w)(?:{re.escape(name)}|{re.escape(last)})(?!\w)"
    return re.sub(said, _GAP, summary, flags=re.IGNORECASE)


def _worded(wordings: Sequence[str], key: str) -> str:
    return wordings[int(hash_share(key, "wording") * len(wordings))]


def _beginning(entry: QuestionSubject) -> str:
    return " ".join(entry.text.split()[:READABLE_WORDS])


def _stands_in(parameters: Sequence[str], text: str) -> bool:
    return all(
        name in text and re.search(rf"(?<![\w*]){re.escape(name)}(?!\w)", text)
        for name in parameters
    )


def _unanswerable(
    entries: Sequence[QuestionSubject], names: set[str], count: int
) -> list[dict[str, Any]]:
    """Return questions, worded like the others, about names that look right and do not exist."""
    known = names | {entry.name for entry in entries}
    makers: tuple[Callable[[QuestionSubject, QuestionSubject], tuple[str, str] | None], ...] = (
        _moved,
        _crossed,
    )
    rows: dict[str, dict[str, Any]] = {}
    order = sorted(entries, key=lambda entry: text_sha256("first", entry.name))
    others = sorted(entries, key=lambda entry: text_sha256("second", entry.name))
    for turn in range(len(order)):
        first, second = order[turn], others[turn]
        maker = makers[hash_share(first.name, "maker") < 0.3]
        made = maker(first, second)
        if made is None or made[1] in known or second.owner.startswith(first.owner):
            continue
        owner, name = made
        question = _unanswerable_question(owner, name, first, second)
        rows[name] = {
            "id": f"unanswerable/{name}",
            "question": question,
            "answer": UNKNOWN,
            "documents": [],
            "slice": "unanswerable",
            "group": f"unanswerable/{name}",
        }
        if len(rows) == count:
            break
    return list(rows.values())


def _moved(first: QuestionSubject, second: QuestionSubject) -> tuple[str, str] | None:
    """Return the last part of the second name, in the place of the first's."""
    owner, _, own = first.name.rpartition(".")
    last = second.name.rpartition(".")[2]
    same_case = own[:1].isupper() == last[:1].isupper()
    return (owner, f"{owner}.{last}") if owner and same_case and own != last else None


def _crossed(first: QuestionSubject, second: QuestionSubject) -> tuple[str, str] | None:
    """Return the first name, whose last word gives way to the last word of the second's."""
    owner, _, own = first.name.rpartition(".")
    head, word = own.rpartition("_")[0], second.name.rpartition(".")[2].rpartition("_")[2]
    fits = owner and head and word.islower() and len(word) > 2
    return (owner, f"{owner}.{head}_{word}") if fits else None


def _unanswerable_question(
    owner: str, name: str, first: QuestionSubject, second: QuestionSubject
) -> str:
    """Return a question in the words of one of the other kinds."""
    share = hash_share(name, "kind")
    if share < 0.2 and second.summary is not None and second.kind == first.kind:
        return _name_question(name, first.kind, owner, masked(second.summary, second.name))
    wordings = _PARAMETERS if share > 0.6 and first.kind != "class" else _PURPOSE
    return _worded(wordings, name).format(name=name)
