"""The history of nights: one page and one table, also of nights that kept less."""

import json
from pathlib import Path

from rich.console import Console

from flows.cli.history import history_table
from flows.history import read_history, write_history
from tasks.orchestration.history import PastNight, champion_names, render_history
from tasks.orchestration.night_figures import Score
from tasks.orchestration.tracking import Tracker
from tasks.services.stores import Stores


def night(name: str, **changes: object) -> PastNight:
    scores = {"adapter": Score(value=0.8, low=0.7, high=0.9), "base": Score(value=0.1)}
    content = {
        "night": name,
        "verdict": "refused",
        "verdicts": {"adapter": "refused: latency 2.54 (bound 1.5)"},
        "scores": scores,
        "mode": "retrieved",
        "champions": {"adapter": "3 (production)"},
        "rows": 10_806,
        "quarantined": 6,
        "minutes": {"finetuning": 6.98, "indexing": 0.0},
        "total_minutes": 30.0,
    }
    return PastNight.model_validate(content | changes)


def test_the_page_shows_each_night_whole_and_asks_for_nothing_from_elsewhere() -> None:
    page = render_history([night("2026-11-29T023000Z"), night("2026-11-28T023000Z")])
    for text in ("0.800 (0.700 to 0.900)", "refused: latency 2.54 (bound 1.5)", "3 (production)",
                 "10,806", ">6<", "7.0", "not scored", "<svg", "default-src 'none'"):  # fmt: skip
        assert text in page, text
    assert page.count("<circle") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_what_a_night_is_called_or_says_is_no_markup() -> None:
    page = render_history([night("<b>", verdicts={"<i>": "<script>x</script>"})])
    assert "<b>" not in page
    assert "<script" not in page


def test_a_night_that_failed_and_a_checkout_without_any_have_a_page() -> None:
    failed = PastNight(night="2026-11-29T023000Z", verdict="failed")
    page = render_history([failed])
    assert "failed" in page
    assert page.count("not scored") == 3
    assert "<svg" not in page
    assert "No night has run here yet" in render_history([])


def test_the_table_of_the_terminal_fits_80_columns_with_names_whole() -> None:
    console = Console(width=80, file=None, record=True)
    nights = [night("2026-11-29T023000Z", verdict="unchanged"),
              PastNight(night="2026-11-28T023000Z", verdict="failed")]  # fmt: skip
    with console.capture() as captured:
        console.print(history_table(nights))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("2026-11-29T023000Z unchanged 0.800" in line for line in lines)
    assert any("0.700-0.900" in line for line in lines)


def test_a_champion_is_production_else_staging() -> None:
    aliases = {"adapter": {"staging": 4, "production": 3}, "student": {"staging": 4}, "x": {}}
    assert champion_names(aliases) == {"adapter": "3 (production)", "student": "4 (staging)"}


def test_a_night_of_before_has_its_scores_from_the_reports_in_mlflow(
    empty_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    stores = Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    tracker = Tracker(stores)
    run = tracker.begin_night("2026-11-28T023000Z", {})
    report = tmp_path / "evaluation"
    report.mkdir()
    scored = {
        "primary": {"metric": "token_f1", "mode": "retrieved"},
        "systems": {"adapter": {"retrieved": {"token_f1": 0.8}}},
    }
    (report / "metrics.json").write_text(json.dumps(scored))
    tracker.log_files(run, [report], "reports")
    nights = tmp_path / ".nightloom" / "nights"
    nights.mkdir(parents=True)
    old = {"night": "2026-11-28T023000Z", "verdict": "promoted", "workspace": "", "pid": 1}
    old |= {"stages": [{"name": "curation", "state": "executed", "seconds": 90.0}]}
    (nights / "2026-11-28T023000Z.json").write_text(json.dumps(old | {"mlflow_run": run.run_id}))
    gone = {"night": "2026-11-27T023000Z", "mlflow_run": "f" * 32}
    (nights / "2026-11-27T023000Z.json").write_text(json.dumps(old | gone))
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "paths.yaml").write_text(Path("params/paths.yaml").read_text())
    found = read_history(tmp_path, stores)
    assert [one.scores for one in found] == [{"adapter": Score(value=0.8)}, {}]
    assert found[0].minutes == {"curation": 1.5}
    page = write_history(tmp_path, found)
    assert page == tmp_path / "data" / "reports" / "history.html"
    assert "0.800" in page.read_text()
