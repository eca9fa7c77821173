"""Greedy generation: ours, `generate` one prompt at a time, and `generate` in batches of 16.

Closed-book prompts of the test split on the base model, so a night must have run before.
"""

import argparse
import sys
from pathlib import Path

import torch

from tasks.lm.generation import Generation, generate, stop_tokens
from tasks.lm.models import LanguageModel, load_base, prepare_device
from tasks.lm.prompts import Prompt, PromptTemplate
from tasks.records.files import read_records
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams, read_yaml
from tests.benchmarks._measurement import measure, print_result

PEER_BATCH = 16
NEW_TOKENS = 32


def reference(
    language_model: LanguageModel, prompts: list[list[int]], batch: int
) -> list[tuple[int, ...]]:
    """What transformers' `generate` answers, in batches sorted by length and padded on the left."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    padding = language_model.tokenizer.pad_token_id
    stops = stop_tokens(language_model)
    answers: dict[int, tuple[int, ...]] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(prompts[index]) for index in chosen)
        ids = torch.tensor(
            [[padding] * (width - len(prompts[i])) + list(prompts[i]) for i in chosen]
        )
        mask = torch.tensor(
            [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
        )
        made = language_model.model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS
        )[:, width:].tolist()
        for index, row in zip(chosen, made, strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            answers[index] = tuple(row[:end])
    return [answers[index] for index in range(len(prompts))]


def agreement(ours: list[Generation], theirs: list[tuple[int, ...]]) -> float:
    """The share of answers with the same tokens."""
    same = sum(mine.token_ids == other for mine, other in zip(ours, theirs, strict=True))
    return same / len(ours)


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 prompts, 2 repeats")
    quick = parser.parse_args().quick
    count, repeats = (8, 2) if quick else (300, 5)
    compute = ComputeParams.model_validate(read_yaml(Path("params/compute.yaml")))
    manifest, curated = Path("data/models/base.json"), Path("data/curated/test.jsonl")
    if not manifest.exists() or not curated.exists():
        raise ConfigError(f"{manifest} or {curated} is missing", "run `nightloom run` first")
    device = prepare_device(compute)
    base = load_base(
        manifest, Path(".nightloom/models"), numeric_form="nf4_dequantized", device=device
    )
    template = PromptTemplate.load(Path("params/prompts/answer.jinja"))
    records = read_records(curated)[:count]
    asked = [Prompt(item.messages[:-1], ()) for item in records]
    prompts = template.token_ids(base.tokenizer, asked)

    def ours() -> list[Generation]:
        return generate(
            base, prompts, max_new_tokens=NEW_TOKENS, batch_size=compute.generation_batch
        )

    peers = {
        "generate_1": lambda: reference(base, prompts, 1),
        "generate_16": lambda: reference(base, prompts, PEER_BATCH),
    }
    made = ours()
    figures = {
        "prompts": len(prompts),
        "new_tokens": sum(len(answer.token_ids) for answer in made),
        "same_tokens_as_generate_1": agreement(made, reference(base, prompts, 1)),
    }
    print_result("generation", measure(ours, peers, repeats=repeats), figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
