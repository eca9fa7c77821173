"""Raw rows in, accepted rows and a report out."""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.records.turns import shown_counts
from tasks.records.withdrawals import withdrawn_intakes, withdrawn_rows
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders
from tasks.stage.pages import plain_markdown
from tasks.validation.checks import Acceptance, FileResult, check_set, rows_error, set_error
from tasks.validation.expectations import DATA_DOCS_FILE, SuiteRunner, render_data_docs
from tasks.validation.figures import Reference, set_figures, taken_in, unmet_columns
from tasks.validation.params import Params
from tasks.validation.profile import Profile, Profiler, embed_set
from tasks.validation.quarantine import QUARANTINE_FILE
from tasks.validation.raw_rows import intake_folders, write_withdrawn
from tasks.validation.report import ValidationResult, metrics, render_report, unlearned_rows
from tasks.validation.suites import read_suites

LOGGER = logging.getLogger(__name__)
REPORT_FILE = "report.md"
_STEPS = 4


@dataclass(frozen=True)
class Paths:
    """Where the stage reads and writes."""

    raw: Path
    embedder: Path
    model_store: Path
    accepted: Path = output()
    validation_report: Path = output()
    scratch: Path = Path()


def run(params: Params, paths: Paths) -> None:
    """Write the accepted rows, their places and profile, and the report.

    Raises:
        DataError: too many rows break a rule, one breaks a fatal rule, or the set does.
        BrokenRuleError: a rule failed to run.
        ConfigError: a rule is not one.
    """
    curves = Curves(paths.scratch)
    for name in (DATA_DOCS_FILE, REPORT_FILE, QUARANTINE_FILE):
        (paths.scratch / name).unlink(missing_ok=True)  # an earlier night's
    suites = read_suites(Path(params.validation.suites))
    # All of them first: a typo in the last suite should not cost the time of the others.
    runners = {name: SuiteRunner(suite) for name, suite in suites.items()}
    intakes, withdrawn = intake_folders(paths.raw), tuple(withdrawn_intakes(paths.raw).values())
    with output_folders(paths.accepted, paths.validation_report) as (accepted, report):
        profiler = Profiler(params.validation.vocabulary_rows)
        results = _check_rows(params, paths, runners, intakes, accepted, profiler, curves)
        most = params.validation.max_quarantine_share
        quarantine = paths.scratch / QUARANTINE_FILE
        errors = (rows_error(result, most, quarantine) for result in results)
        error = next(filter(None, errors), None)
        whole = None
        if error is None:
            profile = _profile(params, paths, profiler)
            profile.write(accepted)
            reference = Reference.read(intakes[-1], withdrawn)
            whole = check_set(suites["set"], set_figures(profile, reference, intakes[-1]))
            error = set_error(whole, paths.scratch / REPORT_FILE)
        curves.progress(_STEPS - 1, _STEPS)
        stopped = None if error is None else error.message
        names = tuple(intake.name for intake in intakes)
        write_withdrawn(paths.raw, accepted)
        unmet = unmet_columns(intakes[-1])
        found = ValidationResult(names, withdrawn, results, whole, profiler.slices, stopped, unmet)
        _write_reports(found, intakes[-1], paths.scratch, report)
        if error is not None:
            raise error
    curves.progress(_STEPS, _STEPS)


def _check_rows(
    params: Params,
    paths: Paths,
    runners: dict[str, SuiteRunner],
    intakes: list[Path],
    accepted: Path,
    profiler: Profiler,
    curves: Curves,
) -> tuple[FileResult, FileResult]:
    """Return what came of documents and records: lost documents take records along."""
    with (paths.scratch / QUARANTINE_FILE).open("wb") as stream:
        withdrawn, rows = withdrawn_rows(paths.raw), params.validation.batch_rows
        acceptance = Acceptance(
            intakes, withdrawn, rows, accepted, stream, profiler, params.task.reads_tools
        )
        documents, known = acceptance.documents(runners["documents"])
        curves.progress(1, _STEPS)
        records = acceptance.records(runners["records"], known)
        curves.progress(2, _STEPS)
    return documents, records


def _profile(params: Params, paths: Paths, profiler: Profiler) -> Profile:
    texts = profiler.texts[: params.validation.embedding_rows]
    memos = paths.scratch / "memos"
    return profiler.profile(
        embed_set(texts, paths.embedder, paths.model_store, params.compute, memos)
    )


def _write_reports(found: ValidationResult, newest: Path, scratch: Path, report: Path) -> None:
    """Write the reports; into scratch too, where they outlive a night that stops here."""
    totals = [result.totals for result in found.files]
    totals += [found.whole.totals] if found.whole else []
    texts = {
        DATA_DOCS_FILE: render_data_docs(totals, taken_in(newest)),
        REPORT_FILE: plain_markdown(render_report(found)),
    }
    for name, text in texts.items():
        for folder in (scratch, report):
            (folder / name).write_text(text, encoding="utf-8")
    shutil.copyfile(scratch / QUARANTINE_FILE, report / QUARANTINE_FILE)
    write_metrics(report, metrics(found))
    for result in found.files:
        if result.unlearned:
            LOGGER.info(unlearned_rows(result))
        if result.unread:
            shown = shown_counts(result.unread)
            LOGGER.warning("warning: nobody reads these of the %s: %s", result.name, shown)
    for name, said in (found.whole.warnings if found.whole else {}).items():
        LOGGER.warning("warning: %s: %s", name, said)


if __name__ == "__main__":
    sys.exit(run_stage("validation", Params, Paths, run))
