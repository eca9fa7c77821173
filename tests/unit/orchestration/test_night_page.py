"""The page of a night in words, and the few numbers that nights are compared by."""

import json
import math
from pathlib import Path
from typing import Any

from tasks.orchestration.night_figures import NightFigures, Score, read_figures, read_row_steps
from tasks.orchestration.night_page import (
    Changes,
    DecidedVersion,
    NightPage,
    describe_night,
    describe_version,
)
from tasks.promotion.results import Reason
from tasks.services.stores import RunRef

RUN = RunRef("1", "a" * 32)
REFUSED = Reason("latency", "refused", "answers take 2.54 times as long", 2.54, 1.5, None)
WARNED = Reason("abstention/한|글", "warned", "it abstains from <b>46%</b> [x](y)", 0.46, 0.5, None)


def report(folder: Path, name: str, content: dict[str, Any]) -> Path:
    (folder / name).mkdir()
    (folder / name / "metrics.json").write_text(json.dumps(content))
    return folder / name


def evaluated() -> dict[str, Any]:
    """An evaluation with every system, and more than a page shows."""
    names = ("base", "adapter", "student-2", "control")
    values = {"token_f1": 0.5, "exact_match": 0.25, "chrf": 0.1, "rouge_l": 0.2}
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "primary": {"metric": "token_f1", "mode": "retrieved", "confidence": 0.95},
        "systems": {name: {"retrieved": values, "oracle": values} for name in names},
        "intervals": {name: {"retrieved": interval} for name in names},
        "offered": {"system": "student-2", "retention": {"value": 0.9}},
        "perplexity": {name: {"perplexity": math.e} for name in names},
        "retrieval": {"recall_at_1": 0.5, "recall_at_5": 1.0},
        "forgetting": {"perplexity_ratio": 1.1},
        "records": 100,
    }


def test_a_night_has_at_most_15_numbers_under_names_that_stay(tmp_path: Path) -> None:
    records = {"records": {"current": 10_806, "accepted": 10_800, "quarantined": 6}}
    found = read_figures(
        report(tmp_path, "evaluation", evaluated()), report(tmp_path, "validation", records)
    )
    assert found.numbers == {
        "base.f1": 0.5,
        "adapter.f1": 0.5,
        "adapter.exact_match": 0.25,
        "adapter.nats": 1.0,
        "student.f1": 0.5,
        "student.exact_match": 0.25,
        "student.nats": 1.0,
        "control.f1": 0.5,
        "recall_at_5": 1.0,
        "retention": 0.9,
        "forgetting": 1.1,
        "rows": 10_806,
        "quarantined": 6,
    }
    assert len(found.numbers | {"minutes": 1.0}) <= 15
    assert str(found.score("student")) == "0.500 (0.400 to 0.600)"


def test_held_out_feedback_is_one_number_more_and_a_sentence_beside_the_scores(
    tmp_path: Path,
) -> None:
    content = evaluated()
    alone = read_figures(report(tmp_path, "alone", content), tmp_path / "missing")
    content["systems"]["adapter"]["feedback"] = {"token_f1": 0.75}
    content["asked"] = {"feedback": 12}

    found = read_figures(report(tmp_path, "evaluation", content), tmp_path / "missing")

    assert found.numbers == alone.numbers | {"feedback.f1": 0.75}
    assert (alone.feedback, found.feedback) == (None, 12)
    assert "Mode feedback asks 12 served questions beside them" in describe_night(
        page(figures=found)
    )
    assert "feedback" not in describe_night(page(figures=alone))


def test_what_each_step_left_of_the_rows_is_read_from_the_reports(tmp_path: Path) -> None:
    steps = {"quality": {"rows": 90, "taken": 5, "left": 85},
             "leaks": {"rows": 85, "taken": 0, "left": 85}}  # fmt: skip
    splits = {split: {"records": rows, "examples": rows - 1}
              for split, rows in (("train", 70), ("validation", 5), ("test", 10))}  # fmt: skip
    reports = {
        "validation": report(tmp_path, "validation", {"records": {"current": 99, "accepted": 90}}),
        "curation": report(tmp_path, "curation", {"steps": steps}),
        "tokenization": report(tmp_path, "tokenization", splits),
    }
    assert list(map(str, read_row_steps(reports))) == [
        "validation 99 in, 90 left", "quality 90 in, 85 left", "leaks 85 in, 85 left",
        "tokenization 85 in, 82 left",
    ]  # fmt: skip
    older = report(tmp_path, "older", {"records": 10})  # curation's, of before it counted steps
    assert read_row_steps({"curation": older, "tokenization": tmp_path / "missing"}) == []


def test_figures_of_older_and_smaller_reports_leave_out_what_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert read_figures(missing, missing) == NightFigures()
    content = evaluated()
    for name in ("intervals", "offered", "perplexity", "forgetting"):
        del content[name]
    content["retrieval"] = None  # no documents
    content["systems"] = {"adapter": content["systems"]["adapter"]}
    found = read_figures(report(tmp_path, "evaluation", content), missing)
    assert found.numbers == {"adapter.f1": 0.5, "adapter.exact_match": 0.25}
    assert found.score("adapter") == Score(value=0.5)
    assert str(found.score("adapter")) == "0.500"
    assert found.score("student") is None


def page(**changes: Any) -> NightPage:
    content: dict[str, Any] = {
        "night": "2026-11-29T023000Z",
        "verdict": "refused",
        "run": RUN,
        "models": [
            DecidedVersion(
                "adapter", 4, "refused", "nightloom-adapter version 3", (WARNED, REFUSED)
            ),
            DecidedVersion("student", 4, "promoted to staging", "base"),
        ],
    }
    return NightPage(**content | changes)


def test_a_nights_page_says_by_model_what_refused_and_what_the_scores_are() -> None:
    scores = {"adapter": {"retrieved": Score(value=0.8, low=0.7, high=0.9)}}
    scores["base"] = {"oracle": Score(value=0.1)}
    figures = NightFigures(mode="retrieved", records=100, scores=scores)
    text = describe_night(page(figures=figures, pages={"report": (RUN, "reports/a b.html")}))
    lines = text.splitlines()
    assert lines[0] == (  # all that MLflow shows before "Show more"
        "**refused**: adapter 4 **refused: latency 2.54 (bound 1.5)**; "
        "student 4 **promoted to staging**"
    )
    assert (
        "| [adapter 4](#/models/nightloom-adapter/versions/4) | **refused: latency 2.54 "
        "(bound 1.5)** | nightloom-adapter version 3 |"
    ) in lines
    assert "**promoted to staging** | base |" in text
    rules = [line for line in lines if line.startswith("| adapter | ")]
    assert rules[0].startswith("| adapter | latency refused | 2.54 | 1.5 | answers take 2.54")
    assert "| adapter | 0.800 (0.700 to 0.900) | not asked |" not in lines  # base's mode is first
    assert "| base | not asked | 0.100 |" in lines or "| base | 0.100 | not asked |" in lines
    assert f"[report](#/experiments/1/runs/{RUN.run_id}/artifacts/reports/a%20b.html)" in text


def test_what_data_and_rules_say_makes_no_link_no_tag_and_no_column() -> None:
    text = describe_night(page(reasons=["a [link](http://x) | <script>"]))
    assert "<script>" not in text
    assert "<b>" not in text
    assert "[link](" not in text
    assert "[x](" not in text
    table = [line for line in text.splitlines() if "abstains" in line]
    assert [line.count("|") for line in table] == [6]


def test_a_night_without_scores_and_one_that_failed_say_so() -> None:
    text = describe_night(page(models=[], verdict="failed", reasons=["DataError: a row is bad"]))
    assert "**failed**" in text
    assert "- DataError: a row is bad" in text
    assert "No scores: evaluation left no report tonight." in text


def test_changes_since_the_champion_are_named_and_counted() -> None:
    params = {f"finetuning.p{number:02}": ("1", "2") for number in range(14)}
    changes = Changes("nightloom-adapter version 3", RUN, params, rows=(1000, 1200))
    text = describe_night(page(changes=[changes]))
    assert f"[nightloom-adapter version 3](#/experiments/1/runs/{RUN.run_id})" in text
    assert "- `finetuning.p00`: 1 before, 2 now" in text
    assert "- and 2 more params" in text
    assert "- rows: 1,000 before, 1,200 now" in text
    alike = describe_night(page(changes=[Changes("nightloom-adapter version 3", RUN, {})]))
    assert "- nothing: params, number of rows and git commit are the same" in alike


def test_a_version_is_described_by_its_verdict_and_its_card_in_short() -> None:
    card = "---\nlicense: mit\n---\n\n# Model card\n\nAn adapter.\n\n## Data\n\nmany rows\n"
    card += "\n## Scores on 100 held-out records\n\n| a |\n\n## Limits\n\nnone\n"
    text = describe_version(card, "promoted to staging", "2026-11-29T023000Z", RUN)
    assert text.startswith("**promoted to staging** (night [2026-11-29T023000Z](#/experiments/1/")
    assert "An adapter.\n\n## Scores on 100 held-out records\n\n| a |" in text
    assert "many rows" not in text
    assert "license: mit" not in text
    assert describe_version("", "refused", "n", RUN).startswith("**refused**")
