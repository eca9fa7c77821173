"""The report's tables, once for Markdown and once for the page: rows of text cells."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.predictions import ALL_MODES, BATCH_TIMES
from tasks.stage.metrics import flatten

NOTHING = "–"
# What has a table, a picture or a paragraph of its own.
_SHOWN = {
    "systems", "primary", "intervals", "comparisons", "sizes", "slices", "offered", "offers",
    "retrieval", "machine", "gains", "abstention_shares", "test_split", "turns",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table: its title, the heading of each column and the cells of each row, first its name."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown, without its title; names, which come from data, can't break
        it.
        """
        heading = tuple(map(quoted, self.columns))
        rows = [(quoted(row[0]), *row[1:]) for row in self.rows]
        lines = [heading, ("---", *["---:"] * (len(heading) - 1)), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def quoted(text: str) -> str:
    """Return a text as Markdown shows it as it is, on one line: names come from data."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def shown_mode(mode: str) -> str:
    """Return a mode as people read it."""
    return mode.replace("_", " ")


def shown_metric(metric: str) -> str:
    """Return a metric as people read it: `token F1`, `ROUGE-L`, `recall at 1`."""
    named = {
        "token_f1": "token F1", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L",
        "chrf": "chrF", "mrr": "MRR",
        "macro_f1": "macro F1", "words_f1": "words' F1", "ece": "calibration error",
    }  # fmt: skip
    return named.get(metric, metric.replace("_", " "))


def modes_of(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the modes that any system has, in their usual order."""
    found = {mode for modes in systems.values() for mode in modes}
    return [mode for mode in ALL_MODES if mode in found]


def score_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return the primary metric with its interval, systems by modes."""
    found, primary = metrics["intervals"], metrics["primary"]
    modes = modes_of(found)
    rows = [
        (system, *(interval(row[mode]) if mode in row else NOTHING for mode in modes))
        for system, row in found.items()
    ]
    heading = f"{shown_metric(primary['metric'])} [{primary['confidence']:.0%} interval]"
    return Grid("Scores", (heading, *map(shown_mode, modes)), tuple(rows))


def metric_grids(metrics: Mapping[str, Any]) -> list[Grid]:
    """Return every metric of every system, a table a mode; metrics that are new show up by
    themselves.
    """
    systems = metrics["systems"]
    grids = []
    for mode in modes_of(systems):
        rows = {system: found[mode] for system, found in systems.items() if mode in found}
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        names = [name for name in names if not name.endswith("_reason")]
        cells = [
            (system, *(number(row.get(name)) for name in names)) for system, row in rows.items()
        ]
        grids.append(Grid(shown_mode(mode), ("", *map(shown_metric, names)), tuple(cells)))
    return grids


def comparison_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return every paired comparison, whole and by slice, with what its test and its power say."""
    extra = {
        "p_value": "p",
        "p_value_holm": "p, Holm",
        "smallest_detectable": "smallest difference that would show",
        "records": "records",
    }
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for name, found in metrics["comparisons"].items():
        title = " − ".join(sides(name, metrics["systems"]))
        rows.append((title, found))
        slices = found.get("slices", {})
        rows += [(f"{title}, {shown_slice(name)}", row) for name, row in slices.items()]
    keys = [key for key in extra if any(key in found for _, found in rows)]
    cells = [
        (title, signed_interval(found), *(_tested(key, found.get(key)) for key in keys))
        for title, found in rows
    ]
    return Grid("Comparisons", ("", "difference", *(extra[key] for key in keys)), tuple(cells))


def _tested(key: str, value: Any) -> str:
    """Return a cell of the comparisons; no probability is shown as none."""
    is_tiny = key.startswith("p_value") and value is not None and value < 0.001
    return "< 0.001" if is_tiny else number(value)


def slice_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return the primary metric of each system by slice, in the primary mode, and the slices'
    records.
    """
    primary, found = metrics["primary"], metrics["slices"]
    metric = primary["metric"]
    heading = f"{shown_metric(metric)}, {shown_mode(primary['mode'])}"
    rows = []
    for name, records in slice_sizes(metrics).items():
        cells = [_slice(row[name], metric) if name in row else NOTHING for row in found.values()]
        rows.append((shown_slice(name), str(records), *cells))
    return Grid("By slice", (heading, "records", *found), tuple(rows))


def _slice(found: Mapping[str, Any], metric: str) -> str:
    """Return a slice's score and its bounds, where it has any."""
    known = found.get("low") is not None
    return interval({**found, "value": found[metric]}) if known else number(found[metric])


def slice_sizes(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Return how many records each slice has, the slices in their names' order."""
    found = metrics["slices"].values()
    sizes = {name: int(row["records"]) for rows in found for name, row in rows.items()}
    return dict(sorted(sizes.items()))


def size_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return what each system weighs, and how many tokens a second its batches gave."""
    further = _further(metrics)
    rows = [
        (
            system,
            f"{size['parameters'] / 1e6:.1f} M",
            f"{size['megabytes']:.0f} MB",
            NOTHING if size["peak_megabytes"] is None else f"{size['peak_megabytes']:.0f} MB",
            *(number(size[name]) for name in further),
        )
        for system, size in metrics["sizes"].items()
    ]
    columns = ("", "parameters", "weights in memory", "most memory held")
    return Grid("Size and throughput", (*columns, *map(_shown_size, further)), tuple(rows))


def _further(metrics: Mapping[str, Any]) -> list[str]:
    """Return what sizes hold beside the usual, where every system has it.

    Not the milliseconds of an answer that older reports hold: a batch's are no time that anybody
    waits.
    """
    usual = {"parameters", "megabytes", "peak_megabytes", "peak_megabytes_reason"}
    rows = list(metrics["sizes"].values())
    return [
        name
        for name in rows[0]
        if name not in usual
        and not name.startswith(BATCH_TIMES)
        and all(name in row for row in rows)
    ]


def _shown_size(name: str) -> str:
    """Return what a column of sizes is called; older reports call throughput otherwise."""
    is_throughput = name.endswith("tokens_per_second")
    return "throughput in batches, tokens a second" if is_throughput else shown_metric(name)


def retrieval_grid(metrics: Mapping[str, Any]) -> Grid:
    """Return what retrieval reached, each number beside its name; none if it was not measured."""
    found = metrics["retrieval"]
    names = [name for name in found if found[name] is not None and not name.endswith("_reason")]
    rows = [(shown_metric(name), number(found[name])) for name in names if is_number(found[name])]
    return Grid("Retrieval", ("", "value"), tuple(rows))


def further_grids(metrics: Mapping[str, Any]) -> list[Grid]:
    """Return all else that was measured: a table a group, rows by its names or name and value."""
    grids = []
    for name, found in metrics.items():
        if name in _SHOWN or not isinstance(found, Mapping) or not found:
            continue
        title = shown_metric(name).capitalize()
        if all(isinstance(row, Mapping) for row in found.values()):
            flat = {key: flatten(row) for key, row in found.items()}
            columns = list(dict.fromkeys(column for row in flat.values() for column in row))
            rows = [(key, *(number(row.get(c)) for c in columns)) for key, row in flat.items()]
            headings = [" ".join(map(shown_metric, column.split("."))) for column in columns]
            grids.append(Grid(title, ("", *headings), tuple(rows)))
        else:
            pairs = [(shown_metric(key), number(value)) for key, value in flatten(found).items()]
            grids.append(Grid(title, ("", "value"), tuple(pairs)))
    return grids


def sides(comparison: str, systems: Collection[str]) -> tuple[str, str]:
    """Return left and right of `left-right`; systems' own names may hold dashes too."""
    for left in systems:
        right = comparison.removeprefix(f"{left}-")
        if right != comparison and right in systems:
            return left, right
    left, _, right = comparison.partition("-")
    return left, right


def shown_slice(name: str) -> str:
    """Return a slice as people read it: records may have none."""
    return name or "(none)"


def interval(found: Mapping[str, float]) -> str:
    """Return a value and its bounds."""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def signed_interval(found: Mapping[str, float]) -> str:
    """Return a difference and its bounds, with signs."""
    difference = found["difference"] if "difference" in found else found["value"]
    return f"{difference:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def number(value: Any) -> str:
    """Return a number as a cell: counts whole, others with three digits; a dash for null."""
    if not is_number(value):
        return NOTHING if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def is_number(value: Any) -> bool:
    """Return whether it is a number, which truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def joined(parts: Sequence[str]) -> str:
    """Return parts as a list in a sentence."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
