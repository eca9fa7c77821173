"""The loop as a whole: served questions are corrected, and the next night's adapter learns it.

A finished night's bundle is served with `--log`, in a project of its own; nothing of the night is
written to. 200 questions about its documents are asked over HTTP, in words that the data do not
use. The 20 answers that are farthest from the documents are corrected over HTTP: every other one to
what the document says, the others to a fact that stands nowhere else. Then the next night runs up
to fine-tuning and indexing (students are not asked here), with a source of kind feedback. Both
adapters are asked, as they are served, the test split, the 20 questions, rewordings of them, and
neighbours of them: the same words about the next document, which nobody corrected. An answer counts
as corrected where it has the tokens of the correction in their order (exact match).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import httpx
import yaml

from flows.environment import find_stores
from flows.workspace import apply_overrides, read_overrides
from tasks.answering.loading import open_answerer
from tasks.answering.release_bundle import BundleSettings
from tasks.ingestion.intakes import take_in
from tasks.ingestion.params import IngestionParams
from tasks.packaging.assembly import Parts, assemble
from tasks.records.schema import Message, Record, read_records
from tasks.records.text import hash_share, text_sha256
from tasks.scoring.answer_scores import exact_match, token_f1
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import output_folders
from tasks.stage.params import read_yaml
from tasks.statistics.bootstrap import Interval, bootstrap_mean
from tests.benchmarks.serving import Project, make_project, running

STAGES = ("validation", "curation", "tokenization", "finetuning", "retriever_training", "indexing")
_ASKED = "What can I use {} for?"
_REWORDED = "I came across {} in our code, what does it do?"
_TEAMS = ("Amber", "Birch", "Cedar", "Delta", "Ember", "Fjord", "Grove", "Heron")
_ENTRY = {"name": "feedback", "kind": "feedback"}


@dataclass(frozen=True)
class Subject:
    """A document that people ask about, and what it says."""

    name: str
    said: str

    @property
    def fact(self) -> str:
        """What stands nowhere but in a correction."""
        digest = int(text_sha256("fact", self.name)[:8], 16)
        team, number = _TEAMS[digest % len(_TEAMS)], digest // len(_TEAMS) % 90 + 10
        return f"Ask team {team}, rule {number}."


@dataclass(frozen=True)
class Answered:
    """A question, its answer over HTTP, and the answer's id."""

    subject: Subject
    text: str
    completion: str


@dataclass(frozen=True)
class Corrected:
    """A subject, the next one that nobody corrects, and what people say is right."""

    subject: Subject
    neighbour: Subject
    right: str


def choose_subjects(curated: Path, count: int) -> list[tuple[Subject, Subject]]:
    """Documents and their neighbours, chosen by hashed name: what one has, no other pair has."""
    records = [
        record
        for split in ("train", "validation", "test")
        for record in read_records(curated / f"{split}.jsonl")
        if record.slice.endswith("purpose")
    ]
    subjects = [Subject(record.group, record.answer) for record in records]
    subjects.sort(key=lambda one: one.name)
    pairs = list(zip(subjects[::2], subjects[1::2], strict=False))
    return sorted(pairs, key=lambda pair: hash_share(pair[0].name, "asked"))[:count]


def ask_over_http(client: httpx.Client, subjects: Sequence[Subject]) -> list[Answered]:
    """What is served answers about each subject."""
    found = []
    for subject in subjects:
        turns = [{"role": "user", "content": _ASKED.format(subject.name)}]
        response = client.post("/v1/chat/completions", json={"model": "adapter", "messages": turns})
        answer = response.raise_for_status().json()
        text = answer["choices"][0]["message"]["content"]
        found.append(Answered(subject, text, answer["id"]))
        if len(found) % 20 == 0:
            _say(f"{len(found)} questions are served")
    return found


def correct(
    client: httpx.Client, answers: Sequence[Answered], neighbours: Mapping[str, Subject], count: int
) -> list[Corrected]:
    """Correct the answers that are farthest from their documents, over HTTP.

    They are kept beside the request's path, so the last ones are waited for.
    """
    while _settled(client) < len(answers):
        time.sleep(1)
    worst = sorted(answers, key=lambda one: token_f1(one.text, one.subject.said))[:count]
    found = []
    for place, one in enumerate(worst):
        right = one.subject.fact if place % 2 else one.subject.said
        body = {"completion": one.completion, "rating": "bad", "answer": right}
        client.post("/v1/feedback", json=body).raise_for_status()
        found.append(Corrected(one.subject, neighbours[one.subject.name], right))
    return found


def _settled(client: httpx.Client) -> int:
    """How many questions the log has kept, or let go."""
    log = client.get("/health").json()["log"]
    return sum(log[name] for name in ("kept", "dropped", "left_out"))


def copy_night(project: Project, night: Path, preset: str | None) -> None:
    """Give a project today's params, and copies of the night's rows and manifests of models."""
    root = project.root
    copytree("params", root / "params", dirs_exist_ok=True)
    Path(root / "dvc.yaml").write_text(Path("dvc.yaml").read_text("utf-8"), "utf-8")
    for name in ("raw", "models", "accepted"):
        copytree(night / "data" / name, root / "data" / name)
    overrides = read_overrides(Path(), preset, ())
    for path in (root / "params").glob("*.yaml"):
        content = read_yaml(path)
        if path.stem == "ingestion":
            content["sources"].append(_ENTRY)
        apply_overrides(content, path.stem, overrides)
        path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), "utf-8")


def take_feedback_in(root: Path) -> int:
    """Take new rows in, and return how many of them are feedback."""
    params = IngestionParams.model_validate(read_yaml(root / "params/ingestion.yaml"))
    taken = take_in(
        params,
        root / "data/raw",
        datetime.now(UTC),
        accepted=root / "data/accepted",
        stores=find_stores(root),
    ).intake
    weights = json.dumps(params.weights)
    (root / "data/source_weights.json").write_text(weights + "\n", "utf-8")
    return sum(
        one.records for one in (taken.sources if taken else ()) if one.kind == _ENTRY["kind"]
    )


def run_stages(root: Path) -> None:
    """Run the next night's stages, each by its own command."""
    paths = read_yaml(root / "params/paths.yaml")
    stages = yaml.safe_load((root / "dvc.yaml").read_text("utf-8"))["stages"]
    environment = os.environ | {"PYTHONPATH": str(Path().resolve())}
    for name in STAGES:
        started = time.perf_counter()
        text = re.sub(r"\$\{(\w+)\}", lambda match: str(paths[match[1]]), stages[name]["cmd"])
        command = [sys.executable, *text.split()[1:]]
        subprocess.run(command, cwd=root, env=environment, check=True, stdout=sys.stderr)
        _say(f"{name} took {time.perf_counter() - started:.0f} s")


def next_bundle(root: Path, night: Path) -> Path:
    """What the next night would serve: its adapter and index, in the night's own settings."""
    data = root / "data"
    parts = Parts(
        adapter=data / "adapter",
        student=night / "data/bundle/student",
        index=data / "index",
        base=data / "models/base.json",
        retriever=data / "retriever",
    )
    with output_folders(data / "bundle") as (bundle,):
        assemble(bundle, parts, BundleSettings.read(night / "data/bundle"))
    return data / "bundle"


def answers_of(bundle: Path, store: Path, questions: Sequence[str]) -> list[str]:
    """What a bundle's adapter answers, as it is served."""
    answerer = open_answerer(bundle, store, "adapter")
    turns = [[Message("user", question)] for question in questions]
    return [answer.text for answer in answerer.answer(turns)]


def compare(
    bundles: Mapping[str, Path], store: Path, corrected: Sequence[Corrected], test: Sequence[Record]
) -> dict[str, dict[str, Any]]:
    """What the adapters before and after answer to everything."""
    asked = {
        "corrected": [_ASKED.format(one.subject.name) for one in corrected],
        "reworded": [_REWORDED.format(one.subject.name) for one in corrected],
        "neighbours": [_ASKED.format(one.neighbour.name) for one in corrected],
        "test": [record.question for record in test],
    }
    found: dict[str, dict[str, list[str]]] = {}
    for name, bundle in bundles.items():
        answers = iter(answers_of(bundle, store, [one for part in asked.values() for one in part]))
        found[name] = {part: [next(answers) for _ in asked[part]] for part in asked}
        _say(f"{name} is asked: {json.dumps(found[name]['corrected'], ensure_ascii=False)}")
    return {name: _figures(parts, corrected, test) for name, parts in found.items()}


def _figures(
    parts: Mapping[str, Sequence[str]], corrected: Sequence[Corrected], test: Sequence[Record]
) -> dict[str, Any]:
    """How many answers are as corrected, by group; and the test split's score."""
    right = [one.right for one in corrected]
    said = [one.neighbour.said for one in corrected]
    scores = [
        token_f1(text, record.answer) for text, record in zip(parts["test"], test, strict=True)
    ]
    score: Interval = bootstrap_mean(scores, confidence=0.95, resamples=10_000, seed=17)
    return {
        "corrected": _equal(parts["corrected"], right),
        "corrected_to_documents": _equal(parts["corrected"][::2], right[::2]),
        "corrected_to_facts": _equal(parts["corrected"][1::2], right[1::2]),
        "reworded": _equal(parts["reworded"], right),
        "neighbours_as_corrected": _equal(parts["neighbours"], right),
        "neighbours_as_documents": _equal(parts["neighbours"], said),
        "test": [round(number, 4) for number in (score.value, score.low, score.high)],
    }


def _equal(texts: Sequence[str], wanted: Sequence[str]) -> int:
    return sum(int(exact_match(*pair)) for pair in zip(texts, wanted, strict=True))


def main() -> None:
    """Serve, correct, learn, ask again."""
    options = _parser().parse_args()
    night, served = options.workspace.resolve(), 40 if options.quick else 200
    count = 4 if options.quick else 20
    root = Path(tempfile.mkdtemp(prefix="nightloom-feedback-"))
    try:
        project = make_project(root, night)
        copy_night(project, night, options.preset)
        project.promote(1)
        pairs = choose_subjects(night / "data/curated", served)
        with (
            running(project, "--log") as (address, _, _),
            httpx.Client(
                base_url=address, headers=project.headers, timeout=300, trust_env=False
            ) as client,
        ):
            answers = ask_over_http(client, [subject for subject, _ in pairs])
            neighbours = {subject.name: neighbour for subject, neighbour in pairs}
            corrected = correct(client, answers, neighbours, count)
        taken = take_feedback_in(root)
        _say(f"{taken} rows of feedback are taken in")
        run_stages(root)
        bundles = {"before": night / "data/bundle", "after": next_bundle(root, night)}
        test = read_records(night / "data/curated/test.jsonl")
        test = sorted(test, key=lambda record: hash_share(record.id, "evaluation"))[:100]
        figures = compare(bundles, root / ".nightloom/models", corrected, test)
        slices = read_metrics(root / "data/reports/curation")["slices"]
        splits = {name: found.get("feedback.feedback", 0) for name, found in slices.items()}
        print(json.dumps({
            "benchmark": "feedback",
            "ratios": {},
            "spread": {},
            "figures": {"served": len(answers), "taken_in": taken, "splits": splits, **figures},
        }))  # fmt: skip
    finally:
        if not options.keep:
            rmtree(root)


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.feedback", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="40 questions, 4 corrections")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where a night ran")
    parser.add_argument("--preset", help="of the night, e.g. tiny")
    parser.add_argument("--keep", action="store_true", help="leave the project's folder")
    return parser


if __name__ == "__main__":
    main()
