"""What the fine-tuning benchmark trains on: a night's examples, or random ones of a large shape."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.finetuning.params import FinetuningParams
from tasks.models.store import convert
from tasks.models.tiny import make_tiny
from tasks.sequences.examples import Example, read_examples
from tasks.sequences.packing import Batch
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams, read_yaml
from tasks.training.batches import make_batches

TOKENS = Path("data/tokens")
# Llama 3.2's sizes at a billion weights; and a small one that tries the same code.
SHAPES = {
    "billion": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


@dataclass(frozen=True)
class Workload:
    """Examples and a base; `variant` names the night's examples, `shape` makes random ones.

    `base` and `store` count from where the base lies: the project, or a folder of `make_shape`.
    """

    variant: str | None
    shape: str | None
    dtype: str
    pack_tokens: int | None
    base: Path = Path("data/models/base.json")
    store: Path = Path(".nightloom/models")
    held_out: int = 24


WORKLOADS = {
    "short": Workload("closed_book", None, "float32", None),
    "mixed": Workload("passages", None, "float32", None),
    "billion": Workload(None, "billion", "bfloat16", 2048, Path("base.json"), Path("store")),
    "small": Workload(None, "small", "float32", 256, Path("base.json"), Path("store"), 4),
}


def settings(dtype: str = "float32") -> FinetuningParams:
    """The project's own params, in one epoch of 16 examples a step with one evaluation."""
    params = FinetuningParams.model_validate(read_yaml(Path("params/finetuning.yaml")))
    return params.model_copy(update={"batch_examples": 16, "evaluations": 1, "dtype": dtype})


def batches_of(workload: Workload, split: str, count: int) -> list[Batch]:
    """Batches of a workload's examples, in the order in which everybody learns from them."""
    compute = ComputeParams.model_validate(read_yaml(Path("params/compute.yaml")))
    examples = (
        _random(workload, split, count)
        if workload.variant is None
        else _chosen(workload.variant, split, count)
    )
    return make_batches(
        examples, settings(), max_tokens=workload.pack_tokens or compute.micro_batch_tokens
    )


def make_shape(shape: str, place: Path) -> None:
    """Write a base with random weights, as a night's models are written, into a folder."""
    made, sizes = place / "made", SHAPES[shape]
    make_tiny("llama", made)  # for its tokenizer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(made)
    convert(str(made), None, "causal_lm", place / "store").write(place / "base.json")


def _chosen(variant: str, split: str, count: int) -> list[Example]:
    """Examples of a variant, at most one of a context; always the same."""
    chosen: dict[str, Example] = {}
    for example in read_examples(TOKENS / f"{split}.parquet"):
        if example.variant == variant:
            chosen.setdefault(example.context, example)
    found = [chosen[context] for context in sorted(chosen)][:count]
    if len(found) < count:
        raise ConfigError(
            f"{TOKENS}/{split}.parquet holds {len(found)} examples of {variant}, {count} needed",
            "run a night with the default data first",
        )
    return found


def _random(workload: Workload, split: str, count: int) -> list[Example]:
    """Examples of random tokens that share nothing, most of them short, a quarter of it answer."""
    draw = random.Random(split)
    longest = workload.pack_tokens or 0
    vocabulary = SHAPES[workload.shape or ""]["vocab_size"]
    made = []
    for number in range(count):
        length = max(16, min(longest, int(draw.lognormvariate(0, 0.8) * longest / 6)))
        tokens = tuple(draw.randrange(10, vocabulary) for _ in range(length))
        name = f"{split}-{number}"
        made.append(Example(name, "s", "n1", "random", name, tokens, length * 3 // 4))
    return made
