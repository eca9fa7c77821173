"""Greedy generation: ours, `generate` one prompt at a time, and `generate` in batches of 16.

Prompts of the test split on the base model, so a night must have run before. Closed-book ones are
short and decoding dominates; retrieved ones hold the passages that evaluation would show, and
reading them dominates. The tokens must be those of `generate` one prompt at a time; where they are
not, the first that differs must be a tie, its two best logits within 1e-4 in the reference: those
are listed, and anything else ends the benchmark with 1.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.embedding.embedder import Embedder
from tasks.generation.greedy_decoding import Generation, generate, stop_tokens
from tasks.generation.kv_cache import Pass
from tasks.models.loading import LanguageModel, load_base, prepare_device
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import read_records
from tasks.retrieval.index import Index
from tasks.sequences.packing import shared_length
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams, PromptingParams, read_yaml
from tests.benchmarks._measurement import compare, measure, print_result
from tests.benchmarks._memory import growth

PEER_BATCH = 16
NEW_TOKENS = 32
TIE = 1e-4
_MEASURED_BYTES, _MEASURED_ROWS = 2**28, 512
Answers = list[tuple[int, ...]]


@dataclass(frozen=True)
class Workspace:
    """Where a night's data lie."""

    root: Path

    def path(self, name: str) -> Path:
        """A file or folder below the root."""
        found = self.root / name
        if not found.exists():
            raise ConfigError(f"{found} is missing", "run `nightloom run` there first")
        return found

    def base(self, device: torch.device) -> LanguageModel:
        """The base model."""
        manifest, store = self.path("data/models/base.json"), self.path(".nightloom/models")
        return load_base(manifest, store, numeric_form="nf4_dequantized", device=device)

    def prompts(
        self, base: LanguageModel, count: int, passages: int, device: torch.device
    ) -> list[list[int]]:
        """Prompts of the first test records, with so many passages each, as found for them."""
        records = read_records(self.path("data/curated/test.jsonl"))[:count]
        shown: list[tuple[str, ...]] = [()] * len(records)
        if passages:
            manifest, store = self.path("data/models/embedder.json"), self.path(".nightloom/models")
            embedder = Embedder.load(manifest, store, device=device)
            index = Index.load(self.path("data/index")).with_reranker(store, device)
            found = index.search([item.question for item in records], passages, embedder)
            shown = [tuple(item.passage.shown for item in ranked) for ranked in found]
        template = PromptTemplate.load(Path("params/prompts/answer.jinja"))
        asked = [
            Prompt(item.messages[:-1], texts) for item, texts in zip(records, shown, strict=True)
        ]
        return template.token_ids(base.tokenizer, asked)


def reference(language_model: LanguageModel, prompts: list[list[int]], batch: int) -> Answers:
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
            ids.to(language_model.device),
            attention_mask=mask.to(language_model.device),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=sorted(stops),
        )[:, width:].tolist()
        for index, row in zip(chosen, made, strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            answers[index] = tuple(row[:end])
    return [answers[index] for index in range(len(prompts))]


@torch.inference_mode()
def differences(
    base: LanguageModel, prompts: list[list[int]], ours: Answers, theirs: Answers
) -> list[dict[str, Any]]:
    """Where answers part first, and how far apart the reference's two best logits are there."""
    found = []
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine != other:
            at = shared_length(mine, other)
            ids = torch.tensor([[*prompts[number], *other[:at]]], device=base.device)
            best, second = base.model(ids, logits_to_keep=1).logits[0, -1].topk(2).values.tolist()
            found.append({"prompt": number, "token": at, "gap": best - second})
    return found


@dataclass
class Work:
    """What went through the model: counted, not timed.

    `read` are the positions whose keys and values were read, once a row or piece and pass.
    """

    passes: int = 0
    tokens: int = 0
    answered: int = 0
    read: int = 0
    scored: int = 0

    def count(self, _: object, __: object, given: dict[str, Any]) -> None:
        """Take a pass in; a hook that runs before the model's forward."""
        one: Pass = given["decoding"]
        self.passes += 1
        self.tokens += one.input_ids.shape[1]
        self.answered += len(one.answering)
        self.read += int(one.lengths.sum()) + one.decoded + sum(part.stop for part in one.pieces)
        self.scored += int(one.position_ids.sum()) + one.input_ids.shape[1]


def layer_weights(base: LanguageModel) -> list[torch.Tensor]:
    """The parameters of a model's layers: all but the embedding and the head."""
    ends = (base.model.get_input_embeddings(), base.model.get_output_embeddings())
    apart = {id(end.weight) for end in ends}
    return [item for item in base.model.parameters() if id(item) not in apart]


@dataclass(frozen=True)
class Rates:
    """What this machine reads and multiplies a second, at its best."""

    bytes_per_second: float
    flops_per_second: float

    @classmethod
    def measured(cls, base: LanguageModel) -> "Rates":
        """The best of five, on memory far larger than any cache and on a layer's largest matrix."""
        room = torch.ones(_MEASURED_BYTES // 4, device=base.device)
        matrices = [item for item in layer_weights(base) if item.dim() == 2]
        largest = max(matrices, key=torch.Tensor.numel)
        states = torch.ones(_MEASURED_ROWS, largest.shape[1], device=base.device)
        products = _best_seconds(lambda: states @ largest.T)
        return cls(
            _MEASURED_BYTES / _best_seconds(room.sum),
            2 * _MEASURED_ROWS * largest.numel() / products,
        )


@torch.inference_mode()
def _best_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def floor(base: LanguageModel, work: Work, rates: Rates) -> dict[str, float]:
    """The seconds below which this work can't be done: its bytes and its FLOPs at full rate."""
    config = base.model.config
    head = base.model.get_output_embeddings().weight
    layers = sum(item.numel() for item in layer_weights(base))
    width = config.head_dim or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    bytes_read = head.element_size() * (work.passes * (layers + head.numel()) + work.read * cached)
    attended = 4 * work.scored * config.num_hidden_layers * config.hidden_size
    flops = 2 * work.tokens * layers + 2 * work.answered * head.numel() + attended
    seconds = {
        "bytes": bytes_read / rates.bytes_per_second,
        "flops": flops / rates.flops_per_second,
    }
    return {
        "gigabytes": round(bytes_read / 1e9, 1),
        "gigabytes_per_second": round(rates.bytes_per_second / 1e9, 1),
        "gigaflops": round(flops / 1e9, 1),
        "gigaflops_per_second": round(rates.flops_per_second / 1e9, 1),
        "seconds": round(max(seconds.values()), 3),
    }


@dataclass
class Contest:
    """One workload: what each side answered last, and the memory it took above its start."""

    base: LanguageModel
    prompts: list[list[int]]
    rows: int
    answers: dict[str, Answers] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    made: list[Generation] = field(default_factory=list)

    def ours(self) -> None:
        """Answer by our own generation."""

        def call() -> None:
            self.made = generate(
                self.base, self.prompts, max_new_tokens=NEW_TOKENS, batch_size=self.rows
            )

        self.megabytes["ours"] = max(growth(call), self.megabytes.get("ours", 0.0))
        self.answers["ours"] = [one.token_ids for one in self.made]

    def peer(self, batch: int) -> None:
        """Answer by transformers' `generate` in batches of this many."""
        name = f"generate_{batch}"

        def call() -> None:
            self.answers[name] = reference(self.base, self.prompts, batch)

        self.megabytes[name] = max(growth(call), self.megabytes.get(name, 0.0))

    def peers(self) -> dict[str, Callable[[], None]]:
        """The sides beside ours, by name."""
        return {f"generate_{size}": partial(self.peer, size) for size in (1, PEER_BATCH)}

    def seconds(self, repeats: int) -> dict[str, list[float]]:
        """The seconds of each side, interleaved; the first of the prompts warm them up."""
        few = Contest(self.base, self.prompts[:PEER_BATCH], self.rows)
        for warm_up in (few.ours, *few.peers().values()):
            warm_up()
        return measure(self.ours, self.peers(), repeats=repeats, is_warm=True)

    def figures(self, rates: Rates) -> dict[str, Any]:
        """What makes the comparison fair, and what it rests on; runs ours once more to count it."""
        work = Work()
        hook = self.base.model.register_forward_pre_hook(work.count, with_kwargs=True)
        self.ours()
        hook.remove()
        apart = differences(
            self.base, self.prompts, self.answers["ours"], self.answers["generate_1"]
        )
        ordered = sorted(map(tuple, self.prompts))
        first = [one.first_token_ms for one in self.made]
        return {
            "prompts": len(self.prompts),
            "prompt_tokens": sum(map(len, ordered)),
            "distinct_prompt_tokens": sum(map(len, ordered))
            - sum(shared_length(*pair) for pair in pairwise(ordered)),
            "new_tokens": sum(len(one.token_ids) + (not one.is_cut) for one in self.made),
            "rows": self.rows,
            "passes": work.passes,
            "same_tokens_as_generate_1": 1 - len(apart) / len(self.prompts),
            "ties": [item for item in apart if item["gap"] <= TIE],
            "differing": [item for item in apart if item["gap"] > TIE],
            "first_token_ms": dict(
                zip(("p50", "p95"), np.percentile(first, (50, 95)).round(1).tolist(), strict=True)
            ),
            "floor": floor(self.base, work, rates),
            "megabytes": {name: round(value) for name, value in self.megabytes.items()},
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when it ran and no answer differed but by a tie."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 and 4 prompts, 1 repeat")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where a night's data lies")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (1 if options.quick else 5)
    compute = ComputeParams.model_validate(read_yaml(Path("params/compute.yaml")))
    prompting = PromptingParams.model_validate(read_yaml(Path("params/prompting.yaml")))
    device = prepare_device(compute)
    workspace = Workspace(options.workspace)
    base = workspace.base(device)
    rates = Rates.measured(base)
    workloads = {
        "closed_book": (8 if options.quick else 300, 0),
        "retrieved": (4 if options.quick else 100, prompting.passages),
    }
    seconds, figures = {}, {}
    for name, (count, passages) in workloads.items():
        prompts = workspace.prompts(base, count, passages, device)
        contest = Contest(base, prompts, compute.generation_batch)
        seconds[name] = contest.seconds(repeats)
        figures[name] = compare(seconds[name]) | contest.figures(rates)
        print(name, figures[name], flush=True)
    print_result("generation", seconds["closed_book"], {"repeats": repeats, **figures})
    return 1 if any(found["differing"] for found in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
