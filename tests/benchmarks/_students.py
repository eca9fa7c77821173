"""Students tried on validation records: what distillation's defaults are chosen from (ADR 12).

Each trial is a student or a control of so many layers, with its objective, rate, batch and seed; it
is told by its loss and KL on held-out examples and its token F1 in mode retrieved. A trial is one
line of the output, and one whose line is there is not made again. No test record is read.

    python -m tests.benchmarks._students --workspace . --out students.jsonl \
        '{"layers": 24, "rate": 1e-5}' '{"layers": 24, "role": "control", "rate": 2e-4}'
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.distillation.data import DistillationData, read_data
from tasks.distillation.held_out import score_held_out
from tasks.distillation.objective import distillation_loss
from tasks.distillation.params import DistillationParams, Params
from tasks.distillation.pruning import (
    Influence,
    LayerRule,
    StudentPlan,
    measure_influence,
    plan_students,
)
from tasks.distillation.reconstruction import reconstruct
from tasks.distillation.students import FullStudents, vocabulary
from tasks.distillation.teacher import OnlineTeacher, StateMemory
from tasks.embedding.adapter import MANIFEST_FILE
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.requests import Request, Retriever, choose_records, primary_requests
from tasks.evaluation.system_run import no_measure, run_system, score_answer
from tasks.evaluation.systems import PromptSettings, System
from tasks.generation.greedy_decoding import generate
from tasks.models.loading import LanguageModel, load_adapted, load_base, prepare_device
from tasks.models.memory import release_memory
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.schema import read_records
from tasks.records.text import hash_share
from tasks.retrieval.index import Index
from tasks.sequences.packing import Pack
from tasks.stage.params import load_params, read_yaml
from tasks.statistics.bootstrap import paired_bootstrap
from tasks.training.loop import train

_OBJECTIVES = {
    "forward KL": {"forward_kl": 1.0},
    "reverse KL": {"forward_kl": 0.0, "reverse_kl": 1.0},
    "cross-entropy": {"forward_kl": 0.0, "cross_entropy": 1.0},
    "blend": {"forward_kl": 0.5, "cross_entropy": 0.5},
}
_SIZES = (28, 24, 20, 16)


@dataclass(frozen=True)
class Trial:
    """One student to be: `rate` 0 leaves it as it was fitted, `fitted_tokens` 0 leaves that out."""

    layers: int = 20
    rule: LayerRule = "divergence"
    role: str = "student"
    objective: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.0
    batch: int = 4
    seed: int = 0
    token_budget: int = 14_000
    fitted_tokens: int = 32_000

    @property
    def key(self) -> str:
        """What tells it from other trials."""
        return json.dumps(asdict(self), sort_keys=True)


def table(rate: float) -> Iterator[Trial]:
    """Every size fitted alone and with every objective after it; more seeds of the default."""
    for layers in _SIZES:
        yield Trial(layers)
        for objective in _OBJECTIVES.values():
            yield Trial(layers, objective=objective, rate=rate)
    for seed, tried in product((1, 2), (0.0, rate)):
        yield Trial(seed=seed, rate=tried)


class Laboratory:
    """A night's teacher, its held-out examples and its validation records."""

    def __init__(self, records: int, compared: int) -> None:
        """Read what lies in the working directory."""
        files = [Path(f"params/{name}.yaml") for name in _FILES]
        params = load_params(Params, files)
        self._paths = {name: Path(path) for name, path in _yaml("paths").items()}
        self._compute, self._prompting = params.compute, params.prompting
        self._params = params.distillation.model_copy(update={"compared_examples": compared})
        self._device = prepare_device(params.compute)
        paths = self._paths
        store, device = paths["model_store"], self._device
        self.students = FullStudents(
            partial(
                load_adapted,
                paths["base"],
                store,
                paths["adapter"],
                numeric_form=params.models.numeric_form,
                dtype=self._params.dtype,
                device=device,
            ),
            partial(load_base, paths["student_base"], store, numeric_form="float", device=device),
            saved_dtype=self._params.saved_dtype,
            prompt=paths["adapter"] / PROMPT,
        )
        self._questions = self._pose(records)
        self._memory = StateMemory()
        self._influences: dict[Any, Influence] = {}
        self._fitted: tuple[Any, dict[str, Tensor], float] = (None, {}, 0.0)  # what, how, seconds
        # Before packed attention comes to it: what generation needs is another kind.
        self._best = self._scores(self.students.teacher.model)

    def _pose(self, records: int) -> list[Request]:
        paths, passages = self._paths, self._prompting.passages
        split = read_records(paths["curated"] / "validation.jsonl")
        share = partial(hash_share, salt="evaluation")
        chosen = choose_records(split, records, share, split="validation")
        retriever = Retriever.of(
            Index.load(paths["index"]),
            passages,
            embedder=paths["retriever"] / MANIFEST_FILE,
            store=paths["model_store"],
            device=self._device,
        )
        return primary_requests(chosen, retriever, "retrieved")

    def _scores(self, model: Any) -> dict[str, float]:
        """Token F1 by record."""
        params = EvaluationParams.model_validate(_yaml("evaluation"))
        prompt = PromptSettings(
            partial(read_prompt_bundle, self._paths["adapter"] / PROMPT),
            partial(
                generate,
                max_new_tokens=self._prompting.max_new_tokens,
                batch_size=self._compute.generation_batch,
            ),
        )
        asked = LanguageModel(model.eval(), self.students.teacher.tokenizer, "")
        found = run_system(
            System("tried", lambda: asked, prompt),
            [self._questions],
            score=partial(score_answer, markers=tuple(params.abstentions)),
            begin_peak=lambda: None,
            measure=no_measure,
        )
        return {row.record: row.score("token_f1") for row in found.predictions("tried")}

    def try_one(self, trial: Trial) -> dict[str, Any]:
        """What became of a trial."""
        params = self._params.model_copy(
            update={
                "seed": trial.seed,
                "token_budget": trial.token_budget,
                "batch_examples": trial.batch,
                "calibration_tokens": trial.fitted_tokens,
            }
        )
        with tempfile.TemporaryDirectory() as scratch:
            material = self._material(params)
            plan = self._plan(trial, material)
            model = self.students.make(plan)
            material = material.prepared(model)
            self._memory.want(material.held_out_packs())
            teacher = self.students.teacher.model
            width = min(vocabulary(teacher), vocabulary(model))
            online = OnlineTeacher(teacher, width, self._memory)
            seconds = {"fit": 0.0}
            if trial.role == "student" and trial.fitted_tokens:
                packs = material.fitted_packs()
                seconds["fit"] = self._fit(model, plan.kept or (), packs)
            started = time.monotonic()
            if trial.rate:
                self._train(trial, params, model, material, online, Path(scratch))
            seconds["training"] = time.monotonic() - started
        return self._told(model, online, material) | {"seconds": seconds}

    def _material(self, params: DistillationParams) -> DistillationData:
        size = self._compute.micro_batch_tokens
        material = read_data(self._paths["tokens"], params, max_tokens=size, answer=None)
        return material.prepared(self.students.teacher.model)

    def _plan(self, trial: Trial, material: DistillationData) -> StudentPlan:
        model = self.students.teacher.model
        packs = replace(material, calibration_tokens=_INFLUENCE_TOKENS).fitted_packs()
        what = (trial.rule, *(pack.keys for pack in packs))
        influence = self._influences.get(what) or measure_influence(model, packs, trial.rule)
        self._influences[what] = influence
        (plan,) = plan_students([trial.layers], trial.rule, influence.values, "")
        return plan

    def _fit(self, model: Any, kept: Sequence[int], packs: Sequence[Pack]) -> float:
        """Fit a student, or make it what the last one became on the same packs; its seconds."""
        what = (tuple(kept), *(pack.keys for pack in packs))
        if self._fitted[0] != what:
            started = time.monotonic()
            reconstruct(self.students.teacher.model, model, kept, packs, self._memory)
            taken = time.monotonic() - started
            weights = {name: weight.clone() for name, weight in model.state_dict().items()}
            self._fitted = what, weights, taken
        model.load_state_dict(self._fitted[1])
        return self._fitted[2]

    def _train(
        self,
        trial: Trial,
        params: DistillationParams,
        model: Any,
        material: DistillationData,
        online: OnlineTeacher,
        scratch: Path,
    ) -> None:
        objective = params.objective.model_copy(update=dict(trial.objective))
        student = trial.role == "student"
        loss = distillation_loss(online if student else None, objective, online.width)
        train(
            model,
            material.taught if student else material.gold,
            material.validation,
            loss,
            params.model_copy(update={"learning_rate": trial.rate}),
            scratch=scratch,
            identity=trial.key,
        )

    def _told(
        self, model: Any, online: OnlineTeacher, material: DistillationData
    ) -> dict[str, Any]:
        """Loss, KL and agreement a token; token F1 beside the adapter's; of the model as saved."""
        model.to(getattr(torch, self._params.saved_dtype)).float()
        held = score_held_out(model, online, material.compared, online.width)
        tokens = sum(item.tokens for item in held)
        model.set_attn_implementation("sdpa")
        scores = self._scores(model)
        size = torch.finfo(getattr(torch, self._params.saved_dtype)).bits // 8
        weights: list[Tensor] = list(model.parameters())
        records = sorted(scores)
        gain = paired_bootstrap(
            [scores[record] for record in records],
            [self._best[record] for record in records],
            confidence=0.95,
            resamples=4000,
            seed=0,
        )
        return {
            "loss": sum(item.loss for item in held) / tokens,
            "kl": sum(item.divergence for item in held) / tokens,
            "agreement": sum(item.agreement for item in held) / tokens,
            "token_f1": sum(scores.values()) / len(scores),
            "kept": sum(scores.values()) / sum(self._best.values()),
            "less_than_adapter": [gain.low, gain.high],
            "bytes": sum(weight.numel() for weight in weights) * size,
        }


_FILES = ("distillation", "prompting", "models", "compute")
_INFLUENCE_TOKENS = 1000


def _yaml(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(Path(f"params/{name}.yaml"))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trials", nargs="*", help="JSON objects of a trial's fields")
    parser.add_argument(
        "--table", type=float, metavar="RATE", help="sizes x objectives, then seeds"
    )
    parser.add_argument("--out", type=Path, required=True, help="(written) a JSON line a trial")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where a night's data lies")
    parser.add_argument("--records", type=int, default=150, help="validation records")
    parser.add_argument("--compared", type=int, default=128, help="held-out examples")
    return parser.parse_args()


def main() -> int:
    """Make the trials that are asked for and not made yet; 0 when all are."""
    options = _options()
    out = options.out.resolve()
    trials = [Trial(**json.loads(text)) for text in options.trials]
    trials += table(options.table) if options.table else ()
    done = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    made = {json.loads(line)["key"] for line in done}
    os.chdir(options.workspace)
    laboratory = Laboratory(options.records, options.compared)
    for trial in trials:
        if trial.key in made:
            continue
        row = {"key": trial.key, **asdict(trial), **laboratory.try_one(trial)}
        with out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(
            {name: row[name] for name in ("key", "loss", "kl", "token_f1", "seconds")}, flush=True
        )
        release_memory()
    return 0


if __name__ == "__main__":
    sys.exit(main())
