"""Time the models of a release bundle in turns with their base, and write what they took.

The release's task `speed` runs it while nothing else of Nightloom runs.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.records.schema import ServedModel
from tasks.stage.errors import NightloomError
from tasks.stage.outputs import MANIFEST, file_sha256, write_atomically

if TYPE_CHECKING:
    from tasks.models.loading import LanguageModel

# What a model does in a turn beside reading its prompt; as many as short answers have.
NEW_TOKENS = 8
_PROMPTS = 3
_MOST_ROUNDS = 31
_MOST_SECONDS = 60.0

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Turn:
    """What one model took in one round, in seconds; `cpu_seconds` are those of this process."""

    seconds: float
    first_token_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Contestant:
    """A model, and the prompts that it is asked: one a round, the next one in the next round."""

    model: "LanguageModel"
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Bootstrapping:
    """How the intervals of the ratios are drawn."""

    confidence: float
    resamples: int
    seed: int


def take_turns(
    contestants: Mapping[str, Contestant], *, most_rounds: int, most_seconds: float
) -> list[dict[str, Turn]]:
    """Return rounds: in each, one model after the other answers the same question.

    Before them each model answers once, to warm up: it is also tried then whether it answers many
    prompts together, which takes as long as many answers. No round begins that would end later
    than `most_seconds` after the first began if it took as long as the longest one.
    """
    for one in contestants.values():
        take_turn(one.model, one.prompts[0])
    started = time.perf_counter()
    rounds: list[dict[str, Turn]] = []
    longest = 0.0
    while len(rounds) < most_rounds:
        begun = time.perf_counter()
        if begun - started + longest > most_seconds:
            break
        place = len(rounds)
        rounds.append(
            {
                name: take_turn(one.model, one.prompts[place % len(one.prompts)])
                for name, one in contestants.items()
            }
        )
        longest = max(longest, time.perf_counter() - begun)
    return rounds


def take_turn(model: "LanguageModel", prompt: Prompt) -> Turn:
    """Let a model read a prompt and make `NEW_TOKENS` tokens, as it answers when it is served."""
    from tasks.generation.greedy_decoding import generate

    begun, spent = time.perf_counter(), time.process_time()
    (made,) = generate(model, [prompt], max_new_tokens=NEW_TOKENS, batch_size=1, ignore_stops=True)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - spent
    return Turn(seconds, made.first_token_ms / 1000, cpu_seconds)


def load_contestants(
    bundle: Path, store: Path, models: Sequence[ServedModel]
) -> dict[str, Contestant]:
    """Return the base and the models of a bundle, as they are served, with its shortest prompts.

    Raises:
        ConfigError: the bundle or its base can't be loaded.
        DataError: a file of a model is missing or changed.
    """
    from tasks.answering.golden import GoldenPrompts
    from tasks.answering.loading import load_served
    from tasks.answering.release_bundle import BASE, BundleSettings
    from tasks.models.loading import load_base, prepare_device

    settings = BundleSettings.read(bundle)
    device, form = prepare_device(settings.compute), settings.models.numeric_form
    prompts = {
        model: {item.record: item.prompt_ids for item in golden}
        for model, golden in GoldenPrompts.read(bundle).models.items()
    }
    known = prompts["adapter"]  # asked of the base too, whose tokens it has
    shared = [record for record in known if all(record in prompts[model] for model in models)]
    chosen = sorted(shared, key=lambda record: len(known[record]))[:_PROMPTS]
    base = load_base(bundle / BASE, store, numeric_form=form, device=device)
    found = {"base": Contestant(base, tuple(known[record] for record in chosen))}
    for model in models:
        served = load_served(bundle, store, model, numeric_form=form, device=device)
        found[model] = Contestant(served, tuple(prompts[model][record] for record in chosen))
    return found


def over_base(
    rounds: Sequence[Mapping[str, Turn]], drawing: Bootstrapping
) -> dict[str, dict[str, dict[str, float]]]:
    """Return each model's ratios to the base with their intervals; nothing where no round is."""
    from tasks.statistics.bootstrap import bootstrap_median_ratio

    names = [name for name in (rounds[0] if rounds else {}) if name != "base"]
    return {
        name: {
            what: asdict(
                bootstrap_median_ratio(
                    [getattr(one[name], what) for one in rounds],
                    [getattr(one["base"], what) for one in rounds],
                    **asdict(drawing),
                )
            )
            for what in ("seconds", "cpu_seconds")
        }
        for name in names
    }


def speed_of(
    contestants: Mapping[str, Contestant],
    rounds: Sequence[Mapping[str, Turn]],
    drawing: Bootstrapping,
    bundle_sha256: str,
) -> str:
    """Return what `speed.json` holds (`tasks.promotion.speed.Speed`)."""
    import torch

    device = contestants["base"].model.device.type
    found = {
        "bundle_sha256": bundle_sha256,
        "device": device,
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "new_tokens": NEW_TOKENS,
        "prompt_tokens": {
            name: [len(prompt) for prompt in one.prompts] for name, one in contestants.items()
        },
        "confidence": drawing.confidence,
        "rounds": [{name: asdict(turn) for name, turn in one.items()} for one in rounds],
        "over_base": over_base(rounds, drawing),
    }
    return json.dumps(found, indent=1) + "\n"


def wait_without_spinning() -> None:
    """Let OpenMP's threads give their core away while they wait; call it before torch is imported.

    By default they spin. Where other programs run, a thread then keeps a core busy until another
    one gets a core, and answers take ten times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the file written, 1 with the reason on stdout."""
    options = _parser().parse_args(arguments)
    wait_without_spinning()
    drawing = Bootstrapping(options.confidence, options.resamples, options.seed)
    try:
        contestants = load_contestants(options.bundle, options.store, options.models)
        rounds = take_turns(contestants, most_rounds=_MOST_ROUNDS, most_seconds=_MOST_SECONDS)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    digest = file_sha256(options.bundle / MANIFEST)
    write_atomically(options.output, speed_of(contestants, rounds, drawing, digest))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.serving.speed", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="the release bundle's folder")
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    parser.add_argument("--models", choices=("adapter", "student"), nargs="+", required=True)
    parser.add_argument("--confidence", type=float, required=True, help="of the intervals")
    parser.add_argument("--resamples", type=int, required=True, help="of the bootstrap")
    parser.add_argument("--seed", type=int, required=True, help="of the bootstrap")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
