"""Two nights, runs, versions or report folders, found by name and held against each other."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.options import (
    HERE,
    Json,
    ModelName,
    Root,
    Which,
    checkout_at,
    one_line,
    print_json,
)
from flows.console import make_console
from tasks.records.schema import ServedModel
from tasks.registry.versions import MODELS, Alias, model_name
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from tasks.orchestration.tracking import Tracker
    from tasks.promotion.comparison import Change, Difference, Side, SystemComparison
    from tasks.registry.client import Registry

_CHANGES = 10
_LISTED = 8
_SHOWN_CHARACTERS = 300
_RUN = re.compile(r"[0-9a-f]{32}")
_NIGHT = re.compile(r"[\w.:+-]+")
_COMPARABLE = "A night, an MLflow run, a version (3, nightloom-student/3), an alias or a folder."
_VERSION = re.compile(rf"(?:({'|'.join(map(model_name, MODELS))})[/@])?([a-z]+|[0-9]{{1,9}})")
# How a verdict looks and is said.
_VERDICTS = {
    "better": ("green", "better"),
    "worse": ("red", "worse"),
    "no difference that shows": ("cyan", "not to be told from A"),
}


@dataclass(frozen=True)
class Choice:
    """What is compared, where a person said so; None leaves it to the evaluation's own choice."""

    model: ServedModel
    system: str | None
    metric: str | None
    mode: str | None


@dataclass(frozen=True)
class _Report:
    """An evaluation's report on this machine, and the model that was meant by its name."""

    folder: Path
    model: ServedModel


def compare(
    left: Annotated[str, typer.Argument(metavar="A", help=_COMPARABLE)],
    right: Annotated[str, typer.Argument(metavar="B", help="The same, compared with A.")],
    root: Root = HERE,
    model: Which = ModelName.adapter,
    system: Annotated[
        str | None,
        typer.Option(help="base, adapter, student, ...", show_default="the model's own"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="token_f1, exact_match, ...", show_default="the one that A decided on"),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="retrieved, closed_book, ...", show_default="the one that A decided on"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two evaluations: by mode, by slice, and what changed most."""
    with checkout_at(root, as_json) as checkout:
        choice = Choice(model.value, system, metric, mode)
        found = compare_by_name(checkout, left, right, choice)
    if as_json:
        print_json(found)
    else:
        print_comparison(make_console(), found)


def compare_by_name(checkout: Path, left: str, right: str, choice: Choice) -> "SystemComparison":
    """Compare right with left, by the metric and mode that left's evaluation decided on.

    Raises:
        ConfigError: a name says nothing, or a system, metric or mode isn't there.
        DataError: a report is not whole, or the two share no record.
    """
    from tasks.promotion.comparison import compare_systems
    from tasks.promotion.params import Params
    from tasks.stage.params import load_params

    params = load_params(Params, [checkout / "params" / "promotion.yaml"]).promotion
    with tempfile.TemporaryDirectory(prefix="nightloom-") as downloads:
        finder = _Finder(checkout, choice.model, Path(downloads))
        reports = [finder.find(name) for name in (left, right)]
        primary = read_metrics(reports[0].folder)["primary"]
        sides = (_side(left, reports[0], choice.system), _side(right, reports[1], choice.system))
    return compare_systems(
        sides[0],
        sides[1],
        mode=choice.mode or primary["mode"],
        metric=choice.metric or primary["metric"],
        changes=_CHANGES,
        params=params,
    )


class _Finder:
    """Finds reports by the names that people give them."""

    def __init__(self, checkout: Path, model: ServedModel, downloads: Path) -> None:
        self._checkout = checkout
        self._model = model
        self._downloads = downloads

    def find(self, name: str) -> _Report:
        """Return the report that a name means: a version or alias, a folder, a run, or a night."""
        version = _VERSION.fullmatch(name)
        if version and (version[2].isdigit() or version[1] or version[2] in get_args(Alias)):
            return self._version(name, version[1], version[2])
        if Path(name).is_dir():
            return _Report(_whole(Path(name)), self._model)
        if _RUN.fullmatch(name):
            return self._download(name, name, self._model)
        run = self._tracker().night_run(name) if _NIGHT.fullmatch(name) else None
        if run is None:
            raise ConfigError(
                f"{name!r} is no night, run, version or folder with a report; found "
                f"{self._known()}",
                "name one of these, an MLflow run's id, or a folder such as "
                "data/reports/evaluation",
            )
        return self._download(name, run, self._model)

    def _version(self, name: str, registered: str | None, which: str) -> _Report:
        model = self._model
        if registered:
            [model] = [item for item in MODELS if model_name(item) == registered]
        registry = self._registry()
        numbers, aliases = registry.numbers(model), registry.aliases(model)
        number = int(which) if which.isdigit() else aliases.get(which)
        if number not in numbers:
            raise ConfigError(
                f"{name!r} is no version of {model_name(model)}; found {self._known()}",
                "name a version or an alias that exists; write ./NAME for a folder",
            )
        return self._download(name, registry.version(model, number).run_id, model)

    def _download(self, name: str, run_id: str, model: ServedModel) -> _Report:
        from flows.workspace import Workspace

        paths = Workspace(self._checkout, self._checkout, ()).paths()
        target = self._downloads / run_id
        report = Path(paths.evaluation_report).name
        known = target.exists()
        if not known and not self._tracker().download_report(run_id, report, _files(), target):
            raise DataError(
                f"{name} has no evaluation in MLflow (run {run_id} holds none): nothing was scored "
                "in it, or it ended before that",
                "compare a night that came to its evaluation; `nightloom status` shows how each "
                "ended",
            )
        return _Report(target, model)

    def _tracker(self) -> "Tracker":
        from flows.environment import find_stores
        from tasks.orchestration.tracking import Tracker

        return Tracker(find_stores(self._checkout))

    def _registry(self) -> "Registry":
        from flows.environment import find_stores
        from tasks.registry.client import Registry

        return Registry(find_stores(self._checkout))

    def _known(self) -> str:
        """Return what there is, for a person who mistyped."""
        registry = self._registry()
        parts = [f"nights {', '.join(self._tracker().nights(_LISTED)) or 'none'}"]
        for model in MODELS:
            numbers = registry.numbers(model)[-_LISTED:]
            aliases = [f"{name} ({number})" for name, number in registry.aliases(model).items()]
            listed = ", ".join([*map(str, numbers), *aliases])
            parts.append(f"versions of {model_name(model)} {listed or 'none'}")
        return "; ".join(parts)


def _files() -> tuple[str, str]:
    """Return the names of a report's files."""
    from tasks.records.predictions import PREDICTIONS_FILE

    return METRICS_FILE, PREDICTIONS_FILE


def _whole(folder: Path) -> Path:
    """Return the folder, once it is seen to hold a report."""
    missing = [name for name in _files() if not (folder / name).exists()]
    if missing:
        raise DataError(
            f"{folder} holds no {' and no '.join(missing)}; expected evaluation's report",
            "name a folder that `nightloom run` filled, such as data/reports/evaluation",
        )
    return folder


def _side(name: str, report: _Report, system: str | None) -> "Side":
    """Return the system of a report to compare: the one named, else the model's own."""
    from tasks.promotion.comparison import Side
    from tasks.records.predictions import PREDICTIONS_FILE, read_predictions

    metrics = read_metrics(report.folder)
    # A student's version holds the one of student and control that was offered.
    own = metrics["offered"]["system"] if report.model == "student" else report.model
    wanted = system or str(own)
    predictions = read_predictions(report.folder / PREDICTIONS_FILE)
    rows = tuple(row for row in predictions if row.system == wanted)
    if not rows:
        there = ", ".join(dict.fromkeys(row.system for row in predictions))
        raise ConfigError(
            f"{name} has no system {wanted!r}; it was scored with {there}",
            "name one of these with --system",
        )
    return Side(name, wanted, rows)


def print_comparison(console: Console, found: "SystemComparison") -> None:
    """Print a comparison for people; what comes from data is shown as it is, never as markup."""
    console.print(Text(f"A: {found.left_system} of {found.left}"))
    console.print(Text(f"B: {found.right_system} of {found.right}"))
    if found.only_left or found.only_right:
        said = (
            f"scored on different records: compared on the {found.records} that both share; "
            f"{found.only_left} of A's and {found.only_right} of B's are left out"
        )
        console.print(Text(said, style="yellow"))
    whole = found.modes[found.mode]
    seen = (
        f"{found.records} records show a difference of {whole.smallest_detectable:.3f} with "
        f"{found.power:.0%} power"
        if whole.smallest_detectable is not None
        else f"what so many records would show is not known: {whole.smallest_detectable_reason}"
    )
    colour, said = _VERDICTS[found.verdict]
    rest = (
        f": {whole.difference:+.3f} {found.metric} in mode {found.mode} ({found.confidence:.0%} "
        f"interval {whole.low:+.3f} to {whole.high:+.3f}, paired by record; {seen})"
    )
    console.print(Text.assemble("B is ", (said, f"bold {colour}"), rest))
    console.print(_table(f"{found.metric} by mode", found.modes))
    console.print(_table(f"{found.metric} by slice, mode {found.mode}", found.slices))
    if found.changed:
        console.print(f"the {len(found.changed)} records that changed most:", style="bold")
    for change in found.changed:
        _print_change(console, change)


def _print_change(console: Console, change: "Change") -> None:
    scores = f"{change.left_score:.3f} -> {change.right_score:.3f}"
    console.print(Text(f"\n{scores}  {change.record} ({change.slice or 'no slice'})"))
    lines = (("question", change.question), ("expected", change.reference))
    for name, text in (*lines, ("A", change.left_output), ("B", change.right_output)):
        console.print(Text(f"  {name}: {one_line(text, _SHOWN_CHARACTERS)}"))


def _table(title: str, rows: "dict[str, Difference]") -> Table:
    table = Table(title=title, box=None, title_justify="left")
    table.add_column("")
    for heading in ("records", "A", "B", "B - A", "interval", "p", "p, Holm", "would show"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = [str(row.records), f"{row.left:.3f}", f"{row.right:.3f}", f"{row.difference:+.3f}"]
        cells.append(f"{row.low:+.3f} to {row.high:+.3f}")
        smallest = row.smallest_detectable
        cells += [f"{row.p_value:.3f}", f"{row.p_value_holm:.3f}"]
        cells.append("–" if smallest is None else f"{smallest:.3f}")
        table.add_row(*map(Text, (name or "(none)", *cells)))
    return table
