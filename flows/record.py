"""What a night leaves in MLflow: params, data, a few numbers, and a page that says why."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flows.graph import has_remote, parse_lock
from flows.history import HISTORY_PAGE
from flows.run_state import ErrorEntry, NightLog
from flows.workspace import Workspace
from tasks.orchestration.data import push
from tasks.orchestration.mlflow_pages import VERDICT_TAG
from tasks.orchestration.night_figures import NightFigures, read_figures, read_row_steps
from tasks.orchestration.night_page import (
    Changes,
    DecidedVersion,
    NightPage,
    describe_night,
    describe_version,
)
from tasks.orchestration.release import VersionVerdict
from tasks.orchestration.tracking import DataSet, Tracker, is_run_id, source_tags
from tasks.records.schema import FEEDBACK_SPLIT, ServedModel
from tasks.registry.client import Registry
from tasks.registry.versions import Version
from tasks.services.stores import RunRef
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import MANIFEST

_CARD = "README.md"  # of a bundle

_NOT_OF_A_NIGHT = ("notify", "retention")  # params that make no version what it is

_LEFT_OUT_TAG = "sources left out"

_SPLITS = {
    "train": "training",
    "validation": "validation",
    "test": "evaluation",
    FEEDBACK_SPLIT: "evaluation",
}

# Of a stage's own run: what the page is called, the stage, and the file in its report.
_PAGES = (
    ("Data Docs", "validation", "data_docs.html"),
    ("model card", "packaging", "report.md"),
)

Part = TypeVar("Part")


def data_sets(workspace: Workspace) -> list[DataSet]:
    """Return the intakes and the splits of a workspace, with their digests; those that are there.

    The digest of the intakes is DVC's; that of a split begins the SHA-256 of its file.
    """
    root, paths = workspace.path, workspace.paths()
    tracked, curated = root / f"{paths.raw}.dvc", root / paths.curated
    found = []
    if tracked.exists():
        [out] = parse_lock(tracked.read_text(encoding="utf-8"))["outs"]
        found.append(DataSet("intakes", out["md5"], paths.raw, "intake", _intake_rows(workspace)))
    if (curated / MANIFEST).exists():
        files = json.loads((curated / MANIFEST).read_text(encoding="utf-8"))["files"]
        rows = _metrics(root / paths.curation_report).get("splits", {})
        for split, context in _SPLITS.items():
            file, counted = f"{split}.jsonl", {"num_rows": rows[split]} if split in rows else {}
            if file not in files:  # no feedback is held out
                continue
            place = f"{paths.curated}/{file}"
            found.append(DataSet(split, files[file], place, context, counted))
    return found


def _intake_rows(workspace: Workspace) -> dict[str, int]:
    report = _metrics(workspace.path / workspace.paths().validation_report)
    kinds = {kind: report.get(kind, {}).get("current") for kind in ("records", "documents")}
    counted = {"intakes": report.get("intakes"), **kinds}
    return {name: number for name, number in counted.items() if number is not None}


def _metrics(report: Path) -> Mapping[str, Any]:
    return read_metrics(report) if (report / METRICS_FILE).exists() else {}


def decided_versions(log: NightLog, found: Sequence[VersionVerdict]) -> list[DecidedVersion]:
    """Return what was decided of each model's version, as the night's page tells it."""
    return [
        DecidedVersion(
            model=one.version.model,
            version=one.version.number,
            verdict="refused"
            if one.verdict == "refused"
            else log.now.models[one.version.model].headline,
            champion=one.evidence.get("reigning", "not compared again"),
            rules=() if one.decision is None else (*one.decision.refused, *one.decision.warned),
            reasons=one.reasons,
        )
        for one in found
    ]


def params_of_nights(root: Path) -> list[str]:
    """Return the params files that make a night what it is, from the root."""
    files = sorted((root / "params").glob("*.yaml"))
    return [f"params/{path.name}" for path in files if path.stem not in _NOT_OF_A_NIGHT]


class NightRecord:
    """A night's run in MLflow, from its first minute to the page that tells how it ended."""

    def __init__(self, workspace: Workspace, log: NightLog, tracker: Tracker) -> None:
        self._workspace = workspace
        self._log = log
        self._tracker = tracker
        self._begun = time.monotonic()
        self.run = tracker.begin_night(
            log.now.night, source_tags(workspace.checkout, "flows/nightly.py")
        )
        tracker.note(self.run, workspace=workspace.name)
        log.now.mlflow_run = self.run.run_id

    def tell_left_out(self) -> None:
        """Say in MLflow which sources the night goes on without."""
        if self._log.now.left_out:
            names = ", ".join(self._log.now.left_out)
            self._tracker.tag(self.run, {_LEFT_OUT_TAG: names})

    def keep(self) -> None:
        """Keep what reproduces the night: data in the remote; params, data, answers in MLflow."""
        self._log.begin("recording")
        tracker, run = self._tracker, self.run
        root, paths = self._workspace.path, self._workspace.paths()
        tracker.log_params(run, root, params_of_nights(root))
        tracker.log_inputs(run, data_sets(self._workspace))
        tracker.log_predictions(run, root / paths.evaluation_report)
        # All that `nightloom reproduce` needs beside the code.
        inputs = [root / name for name in ("dvc.lock", f"{paths.raw}.dvc", "params", *paths.frozen)]
        tracker.log_files(run, inputs, "versions")
        tracker.log_files(run, [root / paths.evaluation_report], "reports")
        self._log.now.figures = self._figures()
        self._log.write()
        push(root, remote=has_remote(root))

    def finish(
        self,
        found: Sequence[VersionVerdict],
        champions: Mapping[ServedModel, Version],
        registry: Registry,
    ) -> None:
        """Publish the page of a night that came to a verdict, and describe its new versions."""
        now, models = self._log.now, decided_versions(self._log, found)
        for one, verdict in zip(models, found, strict=True):
            if verdict.decision is not None:
                text = describe_version(self._card(), one.headline, now.night, self.run)
                registry.describe(verdict.version, text)
        figures = now.figures or (self._figures() if found else NightFigures())
        figures.verdicts = {one.model: one.headline for one in models}
        figures.numbers["minutes"] = (time.monotonic() - self._begun) / 60
        now.figures = figures
        self._note_steps()
        self._tracker.log_numbers(self.run, figures.numbers)
        self._tracker.tag(self.run, {VERDICT_TAG: str(now.verdict)} | figures.verdicts)
        self._tracker.note(self.run, figures=figures.model_dump(mode="json"))
        self._describe(() if models else now.reasons, models, self._changes(champions))

    def fail(self, error: ErrorEntry) -> None:
        """Publish the page of a night that an error ended, and close its run."""
        self._note_steps()
        self._describe((f"{error.kind}: {error.message}", f"What to do: {error.remedy}"))
        self._tracker.tag(self.run, {VERDICT_TAG: str(self._log.now.verdict)})
        self._tracker.end(self.run, finished=False)

    def _note_steps(self) -> None:
        """Note what each step left of the rows, as far as tonight came."""
        root, paths = self._workspace.path, self._workspace.paths()
        reports = {
            "validation": root / paths.validation_report,
            "curation": root / paths.curation_report,
            "tokenization": root / paths.tokenization_report,
        }
        done = self._log.done()
        self._log.now.steps = read_row_steps(
            {stage: report for stage, report in reports.items() if stage in done}
        )
        self._log.write()

    def _figures(self) -> NightFigures:
        root, paths = self._workspace.path, self._workspace.paths()
        return read_figures(root / paths.evaluation_report, root / paths.validation_report)

    def _describe(
        self,
        reasons: Sequence[str],
        models: Sequence[DecidedVersion] = (),
        changes: Sequence[Changes] = (),
    ) -> None:
        now = self._log.now
        page = NightPage(
            night=now.night,
            verdict=now.told_verdict,
            run=self.run,
            reasons=[*now.told_left_out, *reasons],
            models=models,
            figures=now.figures or NightFigures(),
            changes=changes,
            steps=now.steps,
            stages={entry.name: entry.seconds for entry in now.stages},
            pages=dict(self._pages()),
        )
        self._tracker.describe(self.run, describe_night(page))

    def _pages(self) -> Iterator[tuple[str, tuple[RunRef, str]]]:
        """Yield title -> the artifact of each page that there is."""
        if self._log.now.figures is not None and self._log.now.figures.scores:
            yield "report", (self.run, "reports/evaluation/report.html")
        if self._log.now.error is None:
            yield "history", (self.run, HISTORY_PAGE)
        stages = self._tracker.notes(self.run.run_id).get("stages", {})
        for title, stage, file in _PAGES:
            if is_run_id(stages.get(stage, "")):
                yield title, (RunRef(self.run.experiment_id, stages[stage]), f"{stage}/{file}")

    def _changes(self, champions: Mapping[ServedModel, Version]) -> list[Changes]:
        """Return what differs between tonight and the night of each champion."""
        found: dict[str, Changes] = {}
        figures = self._log.now.figures or NightFigures()
        now = self._tracker.kept(self.run.run_id)
        for version in champions.values() if figures.scores else ():
            then = self._tracker.kept(version.run_id)
            if then is None or now is None or version.run_id in found:
                continue
            names = now.params.keys() | then.params.keys()
            pairs = {
                name: (then.params.get(name, "-"), now.params.get(name, "-")) for name in names
            }
            rows, commits = (then.rows, figures.rows), (then.commit, now.commit)
            found[version.run_id] = Changes(
                champion=version.name,
                run=RunRef(self.run.experiment_id, version.run_id),
                params={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
                rows=_differing(rows),
                commits=_differing(commits),
            )
        return list(found.values())

    def _card(self) -> str:
        """Return the model card of tonight's bundle; nothing of a bundle of before without one."""
        path = self._workspace.path / self._workspace.paths().bundle / _CARD
        return path.read_text(encoding="utf-8") if path.exists() else ""


def _differing(pair: tuple[Part | None, Part | None]) -> tuple[Part, Part] | None:
    """Return both parts of a pair, None where they are alike or one is not known."""
    before, after = pair
    return None if before is None or after is None or before == after else (before, after)
