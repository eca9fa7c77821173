"""The evidence of a decision: its files and their hashes, and what they say of one model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from tasks.promotion.answer_columns import AnswerColumns, read_answer_columns
from tasks.promotion.params import PromotionParams
from tasks.promotion.shadow import Shadow
from tasks.promotion.speed import Speed
from tasks.records.predictions import (
    FEEDBACK,
    LIKELIHOODS_FILE,
    PREDICTIONS_FILE,
    ROLES,
    Likelihood,
    read_likelihoods,
)
from tasks.records.schema import ServedModel
from tasks.records.text import text_sha256
from tasks.scoring.parity import Parity
from tasks.scoring.record_use import RecordUse
from tasks.stage.errors import DataError
from tasks.stage.metrics import METRICS_FILE
from tasks.stage.outputs import file_sha256
from tasks.statistics.bootstrap import Bootstrap, Interval
from tasks.statistics.noninferiority import LossTest
from tasks.task_types.classify import LINEAR
from tasks.task_types.definition import TaskType
from tasks.task_types.table import evaluated_task

SCORED_FILES = (METRICS_FILE, PREDICTIONS_FILE)

MEASURED_FILES = (METRICS_FILE, LIKELIHOODS_FILE)


@dataclass(frozen=True)
class ChampionFiles:
    """The champion, `ALIAS:NUMBER`, and how it did.

    `system` is what it is called in the report on its answers; `likely` is the report that holds
    the likelihoods of its `model`.
    """

    name: str
    report: Path
    system: str
    likely: Path
    model: ServedModel

    def paths(self, name: str) -> dict[str, Path]:
        """Return its files, each below a name."""
        found = {f"{name}/{file}": self.report / file for file in SCORED_FILES}
        return found | {f"{name}/likely/{file}": self.likely / file for file in MEASURED_FILES}


@dataclass(frozen=True)
class UnscoredChampion:
    """A champion that could not be scored on tonight's split, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class EarlierFiles:
    """The other champions of the last nights, the latest first, and how they did.

    `unscored` says by name why one could not be scored on tonight's split.
    """

    scored: tuple[ChampionFiles, ...]
    unscored: Mapping[str, str]


@dataclass(frozen=True)
class UseFiles:
    """The hashes of tonight's test records, and how many decisions these have taken part in."""

    records: Path
    counts: Path


@dataclass(frozen=True)
class EvidenceFiles:
    """All that `decide` reads.

    The first four are the reports of tonight's stages. `parity` is the file of what the registered
    versions answered over HTTP; `bundle_sha256` is the hash of the
    bundle's manifest that it must name. `champion` is None where that is the base, or the candidate
    itself. `speed` is the file of what the models took in turns with the base; an older release
    left none. `earlier` and `uses` are None where nobody looked for them; so is `shadow`, the file
    of the answers to served questions, which is not there where none was served.
    """

    validation: Path
    curation: Path
    evaluation: Path
    packaging: Path
    parity: Path
    bundle_sha256: str
    champion: ChampionFiles | UnscoredChampion | None
    speed: Path
    earlier: EarlierFiles | None = None
    uses: UseFiles | None = None
    shadow: Path | None = None

    def paths(self) -> dict[str, Path]:
        """Return every file by what it is evidence of; the speed's only where there is one.

        Raises:
            DataError: one of them is not there.
        """
        found = {
            "validation": self.validation / METRICS_FILE,
            "curation": self.curation / METRICS_FILE,
            "parity": self.parity,
            **{f"packaging/{name}": self.packaging / name for name in MEASURED_FILES},
            **{f"evaluation/{name}": self.evaluation / name for name in SCORED_FILES},
        }
        if isinstance(self.champion, ChampionFiles):
            found |= self.champion.paths("reigning")
        if self.speed.exists():
            found["speed"] = self.speed
        if self.shadow is not None and self.shadow.exists():
            found["shadow"] = self.shadow
        if self.uses is not None:
            found |= {"test_records": self.uses.records, "record_use": self.uses.counts}
        for one in () if self.earlier is None else self.earlier.scored:
            found |= one.paths(one.name)
        missing = [str(path) for path in found.values() if not path.exists()]
        if missing:
            raise DataError(
                f"there is no {', '.join(missing)}; nothing is decided without evidence",
                "run `nightloom run`, or `dvc checkout` to bring the last reports back",
            )
        return found

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file, by what it is evidence of; one an earlier champion.

        Raises:
            DataError: one of them is not there.
        """
        found = {name: file_sha256(path) for name, path in self.paths().items()}
        for one in () if self.earlier is None else self.earlier.scored:
            # The ledger's entries are short, and there may be several.
            found[one.name] = text_sha256(*(found.pop(name) for name in one.paths(one.name)))
        return found


Metrics = Mapping[str, Any]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SplitLikelihoods:
    """How likely a model finds the references of a split: by record, and the split's hash."""

    rows: Mapping[str, Likelihood]
    sha256: str | None


@dataclass(frozen=True)
class ChampionEvidence:
    """The champion, or an earlier one: its name, what it answered and what it found likely.

    `learned` are the ids of the test records that it may have learned, None where nothing tells;
    `unscored` says why it could not be scored on tonight's split, None where it was.
    """

    name: str
    metrics: Metrics
    answers: AnswerColumns | None
    likely: SplitLikelihoods
    learned: frozenset[str] | None
    unscored: str | None = None


@dataclass(frozen=True)
class ModelEvidence:
    """What all rules look at.

    `system` stands for the model in evaluation: for a student the one that is offered, which may be
    its control. `mode` is decided on; `answers` are by system and mode. `earlier` are the other
    champions of the last nights, the latest first; `unscored` says why one is missing.
    """

    model: ServedModel
    task: TaskType
    system: str
    offered: str
    mode: str
    has_documents: bool
    validation: Metrics
    curation: Metrics
    metrics: Metrics
    packaging: Metrics
    parity: Parity
    speed: Speed | None
    shadow: Shadow | None
    bundle_sha256: str
    answers: Mapping[tuple[str, str], AnswerColumns]
    likely: SplitLikelihoods
    champion: ChampionEvidence | None
    earlier: tuple[ChampionEvidence, ...]
    unscored: Mapping[str, str]
    use: RecordUse | None
    params: PromotionParams
    bootstrap: Bootstrap

    @property
    def metric(self) -> str:
        """Return the metric that is decided on."""
        return self.params.primary_metric

    @property
    def losses(self) -> LossTest:
        """Return how a loss against the champion is tested."""
        return LossTest(self.params.confidence, self.params.power, self.bootstrap)

    def found(self, *path: str) -> Any:
        """Return what evaluation's metrics hold at a path, None if there is nothing."""
        return value_at(self.metrics, *path)

    def primary(self, system: str) -> AnswerColumns | None:
        """Return a system's answers in the mode that is decided on."""
        return self.answers.get((system, self.mode))

    def ratio(self, parts: Values, wholes: Values | None = None) -> Interval:
        """Return the sum of parts over that of wholes (a mean without them) with its interval."""
        whole = np.ones(len(parts)) if wholes is None else wholes
        drawn = self.bootstrap.ratios(parts[:, None], whole[:, None])[:, 0]
        tail = (1 - self.params.confidence) / 2
        low, high = np.nanquantile(drawn, [tail, 1 - tail])
        return Interval(float(parts.sum() / whole.sum()), float(low), float(high))

    def paired(self, left: str, right: str) -> tuple[Values, Values] | None:
        """Return two systems' scores record by record; None if they are not of the same records."""
        return paired(self.primary(left), self.primary(right))


def paired(left: AnswerColumns | None, right: AnswerColumns | None) -> tuple[Values, Values] | None:
    """Return scores of the same records in the same order, all finite; None if they are not."""
    if left is None or right is None or left.asked != right.asked:
        return None
    finite = np.isfinite(left.score).all() and np.isfinite(right.score).all()
    return (left.score, right.score) if finite else None


def value_at(metrics: Metrics, *path: str) -> Any:
    """Return what nested metrics hold at a path, None if there is nothing."""
    found: Any = metrics
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def read_evidence(
    params: PromotionParams, files: EvidenceFiles, model: ServedModel
) -> ModelEvidence:
    """Read what the files say of one model.

    Raises:
        DataError: a file is not there, or is not what it should be.
    """
    files.paths()
    earlier = files.earlier or EarlierFiles((), {})
    metrics = _metrics(files.evaluation)
    task = evaluated_task(metrics)
    params = params.of_task(task)
    offered = _offered(metrics)
    mode = decided_mode(params, metrics)
    systems = ("base", "adapter", *ROLES, LINEAR)
    predictions = files.evaluation / PREDICTIONS_FILE
    return ModelEvidence(
        model=model,
        task=task,
        system=offered if model == "student" else model,
        offered=offered,
        mode=mode,
        has_documents=_has_documents(metrics),
        validation=_metrics(files.validation),
        curation=_metrics(files.curation),
        metrics=metrics,
        packaging=_metrics(files.packaging),
        parity=Parity.read(files.parity),
        speed=Speed.read(files.speed) if files.speed.exists() else None,
        shadow=Shadow.read(files.shadow) if files.shadow and files.shadow.exists() else None,
        bundle_sha256=files.bundle_sha256,
        answers=read_answer_columns(predictions, params.primary_metric, systems),
        likely=_likely(files.packaging, model),
        champion=_current_champion(params, files.champion, mode),
        earlier=tuple(_champion(params, one, mode) for one in earlier.scored),
        unscored=earlier.unscored,
        use=None if files.uses is None else RecordUse.read(files.uses.counts),
        params=params,
        bootstrap=Bootstrap(params.resamples, params.seed),
    )


def decided_mode(params: PromotionParams, metrics: Metrics) -> str:
    """Return the mode that is decided on: the one in params, closed_book without documents."""
    return params.primary_mode if _has_documents(metrics) else "closed_book"


def _current_champion(
    params: PromotionParams, champion: ChampionFiles | UnscoredChampion | None, mode: str
) -> ChampionEvidence | None:
    if isinstance(champion, UnscoredChampion):
        nothing = SplitLikelihoods({}, None)
        return ChampionEvidence(champion.name, {}, None, nothing, frozenset(), champion.why)
    return None if champion is None else _champion(params, champion, mode)


def _champion(params: PromotionParams, champion: ChampionFiles, mode: str) -> ChampionEvidence:
    report = champion.report
    found = read_answer_columns(report / PREDICTIONS_FILE, params.primary_metric, [champion.system])
    # A bundle without passages is served closed book, whatever tonight's is.
    answers = found.get((champion.system, mode)) or found.get((champion.system, "closed_book"))
    likely = _likely(champion.likely, champion.model)
    metrics = _metrics(report)
    # A night's own report is of records that its model was kept from; one scored again tells.
    learned = metrics.get("learned", [])
    return ChampionEvidence(
        champion.name, metrics, answers, likely, None if learned is None else frozenset(learned)
    )


def _metrics(report: Path) -> Metrics:
    path = report / METRICS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is no whole JSON ({error}); expected a stage's metrics",
            "run `dvc checkout`, or `nightloom run`, which makes it again",
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; expected names and numbers",
            "run `nightloom run`, which makes it again",
        )
    return content


def _likely(report: Path, model: ServedModel) -> SplitLikelihoods:
    path = report / LIKELIHOODS_FILE
    try:
        rows = read_likelihoods(path)
    except (pyarrow.ArrowInvalid, TypeError) as error:
        raise DataError(
            f"{path} holds no likelihoods ({error}); expected a table of them",
            "run `dvc checkout`, or `nightloom run`, which makes it again",
        ) from error
    own = {row.record: row for row in rows if row.system == model}
    return SplitLikelihoods(own, value_at(_metrics(report), "likelihood_sha256"))


def _offered(metrics: Metrics) -> str:
    """Return whether evaluation offers the student or, because distillation did not pay, its
    control.
    """
    found = value_at(metrics, "offered", "system")
    if found not in ROLES:
        raise DataError(
            f"evaluation's metrics offer {found!r}; expected student or control",
            "run `nightloom run`, which evaluates again",
        )
    return str(found)


def _has_documents(metrics: Metrics) -> bool:
    """Return whether the evaluation had passages to show: any system has a mode that holds some.

    Feedback is asked with passages or without, as it is served.
    """
    systems = metrics.get("systems", {})
    measured = value_at(metrics, "retrieval", "mrr") is not None
    return measured or any(set(modes) - {"closed_book", FEEDBACK} for modes in systems.values())
