"""What quantisation cost, as JSON and as a table for people."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.statistics.intervals import Interval

JSON_FILE = "quantization.json"
TABLE_FILE = "quantization.md"


@dataclass(frozen=True)
class Cost:
    """One form: mean loss of a reference's token closed book, F1 with passages, size, speed.

    The differences are to the first form, paired by record, with a 95% bootstrap interval.
    `tokens_a_second` counts answers' tokens over all the time that answering took, prompts
    included.
    """

    form: str
    loss: float
    loss_difference: Interval
    token_f1: float
    token_f1_difference: Interval
    bytes_on_disk: int
    tokens_a_second: float


@dataclass(frozen=True)
class Costs:
    """Every form of one model; the first is what is served, computed in float32."""

    model: str
    records: int
    numeric_form: str
    rows: tuple[Cost, ...]


def write_costs(folder: Path, costs: Costs) -> None:
    """Write both files into a folder."""
    text = json.dumps(asdict(costs), indent=1, allow_nan=False)
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / TABLE_FILE).write_text(render_costs(costs), encoding="utf-8")


def render_costs(costs: Costs) -> str:
    """The table in Markdown."""
    lines = [
        f"# What quantisation cost the {costs.model}",
        "",
        f"{costs.records} held-out records: the loss of a reference's token closed book (nats), "
        "and token F1 of answers with passages. Differences are to the served form "
        f"(`{costs.numeric_form}`, computed in float32), paired by record, with 95% intervals. "
        "GGUF files are answered from by llama.cpp, up to 16 prompts at a time; their loss is that "
        "of the numbers in them, computed in float32. Tokens a second are those of answers, over "
        "the time that reading the prompts and answering took.",
        "",
        "| form | loss | difference | token F1 | difference | MB on disk | tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in costs.rows:
        lines.append(
            f"| {row.form} | {row.loss:.3f} | {_shown(row.loss_difference)} | {row.token_f1:.3f} | "
            f"{_shown(row.token_f1_difference)} | {row.bytes_on_disk / 1e6:.0f} | "
            f"{row.tokens_a_second:.1f} |"
        )
    return "\n".join([*lines, ""])


def _shown(interval: Interval) -> str:
    if interval.value == interval.low == interval.high == 0:
        return "0"
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
