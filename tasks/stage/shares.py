"""Bounds on the share of its input that a step of a stage may take away."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.stage.errors import GateError

EXAMPLES = 3
_EXAMPLE_CHARACTERS = 100


@dataclass(frozen=True)
class Taken:
    """What a step took away: `count` of `rows`, as what, and why some of them went.

    `examples` are sentences about single rows.
    """

    count: int
    rows: int
    what: str
    examples: Sequence[str]


def check_share(taken: Taken, bound: float, *, setting: str, remedy: str) -> None:
    """Refuse the night where a step took more than a share of its rows away.

    `setting` is the param that holds `bound`, as `--set` takes it; `remedy` what else may help.

    Raises:
        GateError: it took more; with examples, and the setting that lets it through.
    """
    if taken.count <= bound * taken.rows:
        return
    share = taken.count / taken.rows
    examples = "\n".join(f"  {text}" for text in taken.examples[:EXAMPLES])
    raise GateError(
        f"{taken.count} of {taken.rows} {taken.what} ({share:.0%}); expected at most {bound:.0%}, "
        f"since a night that loses so much learns something else than it was given:\n{examples}",
        f"{remedy}; or, where they are rightly left out, let it through: "
        f"`--set {setting}={min(1.0, round(share + 0.01, 2))}`, or the same in "
        f"params/{setting.partition('.')[0]}.yaml",
    )


def shortened(text: str) -> str:
    """Return a text on one line, cut to what an example has room for."""
    line = " ".join(text.split())
    return line if len(line) <= _EXAMPLE_CHARACTERS else f"{line[: _EXAMPLE_CHARACTERS - 1]}…"
