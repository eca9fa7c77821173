"""Whether an answer was cut, told by how it ends.

Each sign is one that whole answers do not bear, in the languages looked at: what a whole answer
can end with as well (a preposition, a pronoun, an operator, an emoticon) is none. So some of what
was cut is told from the rest, and nearly nothing else is. The answers on which this was measured
are in `tests/builders/labelled_answers.txt`.
"""

import regex

# Words that lead on, as the last one of an answer; small letters alone, since AND is an operator.
_ENGLISH = (
    r"the|(?<!\b(?:just|simply|only) )because|such as|as well as|rather than|in order to"
    r"|(?:such|has|have|had) a"
)
_GERMAN = (
    r"weil|dass|sondern|sowie|im|ins|vom|beim|zum|zur|des"
    r"|(?:in|auf|aus|an|bei|unter|durch) der|(?:in|auf) den|(?:in|auf) dem|durch die"
)
_ROMANCE = (
    r"parce que|ainsi que|afin de|porque|así como|(?:dans|sur) les?"
    r"|(?:de|por|en|con) (?:el|los|las)"
)
_LEADS_ON = regex.compile(rf"(?<=\s)(?:{_ENGLISH}|{_GERMAN}|{_ROMANCE})$")
_SPOKEN_OF = regex.compile(r"(?:word|article|called|named)\s\S+$")
# Words that join, unless they stand in a list of such words or are spoken of ("the word and").
_JOINS = regex.compile(r"(\S+)\s(?:and|or|nor|und|oder|et)$")
_NAMED = regex.compile(
    r".*:|(?:and|or|not|xor|und|oder|nicht),?|en|word|keyword|operator|conjunction|called|named|gate"
    r"|\p{L}*(?:wort|[Oo]perator|[Kk]onjunktion)"
)
# Prepositions can end a sentence that asks for something or refers back, and no other one.
_STRANDED = regex.compile(
    r"(?<=\s)(?:an?|the) \p{Ll}+ (?:for|of|from|with|into)$"
    r"|(?<=\s)(?:because|instead|one|some|many|most|number|lack|amount) of$"
    r"|(?<=\s)(?:according|due) to$"
)
_REFERS = regex.compile(r"\b(?:what|which|whom?|that|where|whatever)\b", regex.IGNORECASE)

_KOREAN = (
    r"\s(?:그리고|또는|혹은|및|왜냐하면|따라서)|\p{Hangul}를"
    r"|(?:대한|위한|관한|의한|통한|인한|있는|없는|하는|되는|라는|경우에는)"
    r"|[할될을볼줄갈올쓸알] 수"
)
_CHINESE = (
    r"以及|并且|或者|因为|例如|比如|而且|由于|关于|如果|虽然|为了|是一种"
    r"|[，,](?:并|但|而|且|所以|因此)"
)
_JAPANESE = (
    r"(?:[。、]そして|および|または|ならびに|における|に関する|に対する|については|ついての|ための|することが)"
    r"|[\p{Han}\p{Katakana}\p{Hiragana}]を"
)
_UNSPACED_LEADS_ON = regex.compile(rf"(?:{_KOREAN}|{_CHINESE}|{_JAPANESE})$")
_KOREAN_LIST = regex.compile(r"(?:,|그러나|하지만|그리고)\s\p{Hangul}+$")
_WISH = regex.compile(r"(?:良い|よい|いい|素敵な|すてきな|楽しい|幸せ|お)\p{L}*を$")

# A comma after a word of a longer line, and a colon that announces what does not come.
_COMMA = regex.compile(r"(?:\p{L}{2}[,，]|[\p{L}\p{N}][、])$")
_LEAST_WORDS, _LEAST_LETTERS = 5, 12
_CLOSES_LETTER = regex.compile(
    r"\b(?:regards|wishes|sincerely|yours|thanks|love|cheers|Grüße|Grüßen|saludos|cordialement)\b",
    regex.IGNORECASE,
)
_ANNOUNCES = regex.compile(
    r"(?:\bfollowing\b|\bfollows?\b|\bbelow\b|\bfolgend\w*|\bfolgt\b|如下|以下|다음|아래|次の)"
    r"[^.!?。！？\n]{0,60}[:：]$"
)
# A bracket that opens after a space or a letter without spaces, words and no closing behind it.
_OPEN_BRACKET = regex.compile(
    r"(?:(?<=[\p{L}\p{N}] )[(\[]|(?<=[\p{Han}\p{Hiragana}\p{Katakana}])[（(]|[（「『【])"
    r"(?=\p{L})[^()\[\]（）「」『』【】]{8,}$"
)
_ENDED = regex.compile(r"[.!?。！？…\"'”’»]$")
_OPEN_LINK = regex.compile(r"\]\([^)\s]*$")
_FENCE = regex.compile(r"^[ \t]*```", regex.MULTILINE)
_MARKER = regex.compile(r"(?:\d{1,2}[.)]|[-*•])$")


def is_cut(answer: str) -> bool:
    """Return whether an answer stops in the middle; white space at its end doesn't count."""
    text = answer.rstrip()
    last = text.rpartition("\n")[2].strip()
    return (
        _leads_on(text)
        or _announces(text, last)
        or _has_open_bracket(text, last)
        or _has_open_block(text)
        or _has_empty_item(text, last)
    )


def _leads_on(text: str) -> bool:
    """Return whether the last word can't be the last one."""
    joins = _JOINS.search(text)
    if joins is not None:
        return not _NAMED.fullmatch(joins[1])
    if _LEADS_ON.search(text):
        return not _SPOKEN_OF.search(text)
    if _STRANDED.search(text):
        sentence = regex.split(r"[.!?\n]", text)[-1]
        return not _REFERS.search(sentence)
    if _UNSPACED_LEADS_ON.search(text):
        return not (_KOREAN_LIST.search(text) or _WISH.search(text))
    return False


def _announces(text: str, last: str) -> bool:
    """Return whether more is announced: by a comma that closes no letter, or by a colon."""
    if _ANNOUNCES.search(text):
        return True
    if not _COMMA.search(last) or _CLOSES_LETTER.search(last):
        return False
    return len(last) >= _LEAST_LETTERS and (
        len(last.split()) >= _LEAST_WORDS or last.endswith(("，", "、"))
    )


def _has_open_bracket(text: str, last: str) -> bool:
    """Return whether a bracket with words in it, a link or an object of JSON was left open."""
    if _ENDED.search(text):
        return False
    if _OPEN_BRACKET.search(last) or _OPEN_LINK.search(last):
        return True
    return text.startswith('{"') and text.count("{") > text.count("}")


def _has_open_block(text: str) -> bool:
    """Return whether a block of code begins, has a line, and never ends."""
    fences = list(_FENCE.finditer(text))
    return len(fences) % 2 == 1 and "\n" in text[fences[-1].start() :].strip()


def _has_empty_item(text: str, last: str) -> bool:
    """Return whether a list ends with a marker that nothing follows."""
    if not _MARKER.fullmatch(last):
        return False
    marker = r"\d{1,2}[.)]" if last[0].isdigit() else regex.escape(last)
    return len(regex.findall(rf"^[ \t]*{marker}[ \t]+\S", text, regex.MULTILINE)) >= 2
