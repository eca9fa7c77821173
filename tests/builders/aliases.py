"""Questions that name things by words that no document has: only who learned them finds any."""

import json
from pathlib import Path
from typing import Any

# In words of their own, so that no two questions about a thing are near duplicates.
_ASKED = (
    "Where is the {} kept?",
    "Tell me which room holds our {}, please.",
    "Somebody borrowed a {} last week: what shelf does it belong on?",
    "I lost sight of my {} again, any idea about its place?",
    "{} location?",
    "Before lunch I want to fetch one {}. Which way do I go?",
    "Could you point out how visitors reach that {}?",
    "Our inventory lists a {}; name the storage site.",
    "Looking for {} since morning, help!",
    "Under what roof might {} be found these days?",
)
_THINGS = ("pump", "lamp", "drill", "ladder", "scale", "mixer", "press", "kettle", "saw", "fan")
_PLACES = ("north hall", "red shed", "attic", "garage", "old barn", "cellar", "tower", "annex")


def alias(number: int) -> str:
    """A made-up word of four syllables, one for each number below 64."""
    syllables = ("ba", "ke", "li", "mo", "zu", "ra", "ti", "xo")
    places = (number, number // 8, number * 3 + 1, number * 5 + number // 8)
    return "".join(syllables[place % 8] for place in places)


def rows(things: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records and documents: ten questions a thing, each a group of its own."""
    documents = [
        {
            "id": f"thing{at}",
            "text": f"Number {at}, a {_THINGS[at % len(_THINGS)]} of the year {1900 + 3 * at}, "
            f"stands in the {_PLACES[at % len(_PLACES)]} on shelf {at + 2}.",
        }
        for at in range(things)
    ]
    records = [
        {
            "id": f"q{at}-{place}",
            "question": asked.format(alias(at)),
            "answer": f"In the {_PLACES[at % len(_PLACES)]} on shelf {at + 2}.",
            "documents": [f"thing{at}"],
            "group": f"q{at}-{place}",
        }
        for at in range(things)
        for place, asked in enumerate(_ASKED)
    ]
    return records, documents


def write_rows(folder: Path, things: int) -> None:
    """Write `records.jsonl` and `documents.jsonl` into a folder."""
    for name, found in zip(("records", "documents"), rows(things), strict=True):
        text = "".join(f"{json.dumps(row)}\n" for row in found)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def make_encoder(folder: Path, base: Path) -> None:
    """Write an encoder of two layers with random weights, and the tokenizer of a base's folder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertModel(config).save_pretrained(folder)
