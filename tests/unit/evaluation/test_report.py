"""The report: words that say what numbers say, a page that data can't break, plots that repeat."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.aggregates import abstention_shares
from tasks.evaluation.comparisons import gain_family, scores_by_record
from tasks.evaluation.grids import Grid, comparison_grid, further_grids, sides, size_grid
from tasks.evaluation.plots import drawable
from tasks.evaluation.report import write_report
from tasks.evaluation.summary import headline, paragraphs
from tasks.records.predictions import DISTRACTOR, FEEDBACK, Prediction
from tasks.statistics.significance import compare_families
from tests.builders.evaluation_report import (
    answered,
    inference,
    metrics_of,
    says_no,
    share_interval,
)

pytestmark = pytest.mark.slow

EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> & \u2028 '\""
SLICES = ("한국어", "a:b/?", "", "<b>bold</b>")
SYSTEMS = ("base", "adapter", "student", "control")
FILES = ("report.html", "report.md", "scores.png", "slices.png", "tradeoff.png", "abstention.png")


def rows() -> list[Prediction]:
    made = []
    for place, system in enumerate(SYSTEMS):
        for mode in ("closed_book", "retrieved") if system != "control" else ("retrieved",):
            for number, name in enumerate(SLICES):
                made.append(
                    answered(
                        score=0.2 * place + 0.02 * number + 0.1 * (mode == "retrieved"),
                        system=system,
                        mode=mode,
                        record=f"r{number}",
                        slice=name,
                        question=f"서울은 {number}?",
                        reference="I don't know" if number == 3 else "수도",
                        output=f"{EVIL} {system} 東京",
                        retrieved=(f"d#{number}", "gone#0") if mode == "retrieved" else (),
                    )
                )
    return made


def write(folder: Path, metrics: dict[str, Any] | None = None) -> Path:
    folder.mkdir()
    made = rows()
    write_report(folder, metrics or metrics_of(made), made, {f"d#{n}": EVIL for n in range(4)})
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("reports") / "one")


class Elements(HTMLParser):
    """The start tags of a page, and what its scripts and styles hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.contents.append((self.tags[-1][0], data))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_what_data_hold_is_text_in_the_page_and_never_markup(report: Path) -> None:
    page = (report / "report.html").read_text()
    found = Elements(page)
    assert len(found.all("script")) == 2
    assert found.all("b") == []
    assert all(str(image["src"]).startswith("data:image/svg+xml") for image in found.all("img"))
    assert not any(name.startswith("on") for _, named in found.tags for name in named)
    assert "&lt;b&gt;bold" in page
    assert "한국어" in page


def test_every_answer_and_passage_is_in_the_page_as_it_was(report: Path) -> None:
    page = (report / "report.html").read_text()
    [data] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    content = json.loads(data)
    texts = content["texts"]
    made = rows()
    found = {
        (content["systems"][system], content["modes"][mode], texts[content["records"][record][0]]):
        (texts[output], texts[reference], [content["passages"][place][0] for place in passages])
        for record, mode, system, reference, output, passages, _ in content["answers"]
    }  # fmt: skip
    assert found == {
        (row.system, row.mode.replace("_", " "), row.record):
        (row.output, row.reference, list(row.retrieved))
        for row in made
    }  # fmt: skip
    known = dict(content["passages"])
    assert texts[known["d#0"]] == EVIL
    assert known["gone#0"] is None
    f1 = content["scores"].index("token F1")
    assert content["answers"][0][6][f1] == round(made[0].token_f1, 4)


def test_the_page_asks_the_network_for_nothing_and_runs_no_script_but_its_own(report: Path) -> None:
    page = (report / "report.html").read_text()
    found = Elements(page)
    [policy] = [
        str(meta["content"])
        for meta in found.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        own = [text for name, text in found.contents if name == tag and not text.startswith("{")]
        [digest] = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in own]
        assert f"{tag}-src 'sha256-{digest.decode()}'" in policy
    places = [str(named.get(name, "")) for _, named in found.tags for name in ("src", "href")]
    assert all(place == "" or place.startswith(("data:", "#")) for place in places)


def test_equal_evidence_gives_equal_bytes(report: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "two")
    for name in FILES:
        assert (again / name).read_bytes() == (report / name).read_bytes(), name


def test_a_slice_that_the_plots_font_lacks_is_numbered_there_and_named_elsewhere(
    report: Path,
) -> None:
    assert drawable("한국어", 3) == "#4"
    assert drawable("Ärger", 3) == "Ärger"
    text = (report / "report.md").read_text()
    assert "In `slices.png` #4 is 한국어." in text
    page = (report / "report.html").read_text()
    pictures = [
        base64.b64decode(found).decode()
        for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    ]
    assert any(">한국어 (1)</text>" in picture for picture in pictures)
    assert not any("<b>" in picture for picture in pictures)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.3, "better than"), (-0.3, -0.1, "worse than"), (-0.1, 0.1, "can't be told from")],
)
def test_the_headline_says_what_the_interval_says(low: float, high: float, said: str) -> None:
    metrics = metrics_of(rows())
    metrics["comparisons"]["adapter-base"] |= {"low": low, "high": high}
    assert f"The adapter {'is ' if 'told' not in said else ''}{said} the base" in headline(metrics)


def test_the_words_tell_chance_and_power_where_they_were_measured() -> None:
    metrics = metrics_of(rows())
    test = {"p_value": 0.0001, "p_value_holm": 0.012, "smallest_detectable": 0.061, "records": 100}
    metrics["comparisons"]["adapter-base"] |= test
    [first, *_] = paragraphs(metrics)
    assert first.question == "What did fine-tuning buy?"
    assert "p < 0.001, after Holm's correction p = 0.012" in first.text
    assert "With 100 records a real difference below 0.061 would usually not show" in first.text
    unknown = {"smallest_detectable": None, "smallest_detectable_reason": "no variance was seen"}
    metrics["comparisons"]["adapter-base"] |= unknown
    [first, *_] = paragraphs(metrics)
    assert "How small a difference would show can't be told: no variance was seen" in first.text


def test_no_probability_is_shown_as_none() -> None:
    metrics = metrics_of(rows())
    metrics["comparisons"]["adapter-base"] |= {"p_value": 0.0002, "p_value_holm": 0.001}
    [first, *_] = comparison_grid(metrics).rows
    assert first[2:4] == ("< 0.001", "0.001")


def test_the_words_answer_what_retrieval_bought_and_what_distillation_cost() -> None:
    metrics = metrics_of(rows())
    metrics["sizes"]["student"] |= {"parameters": 1_500_000, "megabytes": 4.0}
    told = {answer.question: answer.text for answer in paragraphs(metrics)}
    assert "+0.100 [+0.100, +0.100] for adapter" in told["What did retrieval buy?"]
    assert "How small a change would show can't be told" in told["What did retrieval buy?"]
    cost = told["What did distillation cost?"]
    assert "it has 25% fewer parameters and 50% fewer megabytes of weights in memory." in cost
    assert "gone" not in told["What did retrieval buy?"]
    metrics["retrieval"]["records_without_gold_document"] = 2
    told = {answer.question: answer.text for answer in paragraphs(metrics)}
    assert (
        "2 records name documents that are gone from the index" in told["What did retrieval buy?"]
    )
    metrics["gains"] = {}
    told = {answer.question: answer.text for answer in paragraphs(metrics)}
    assert told["What did retrieval buy?"].startswith("Nothing: the data set has no documents")


def test_the_words_tell_how_held_out_feedback_is_answered_where_there_is_any() -> None:
    metrics = metrics_of(rows())
    question = "How is held-out feedback answered?"
    assert question not in {answer.question for answer in paragraphs(metrics)}
    found = {"value": 0.5, "low": 0.25, "high": 0.75}
    metrics["asked"] = {FEEDBACK: 7}
    metrics["intervals"]["adapter"][FEEDBACK] = found
    told = {answer.question: answer.text for answer in paragraphs(metrics)}[question]
    assert told.startswith("7 served questions,")
    assert "token F1 against these answers is 0.500 [0.250, 0.750] by the adapter." in told
    assert told.endswith("No rule of promotion reads it.")


def test_the_words_tell_what_was_forgotten_obeyed_and_abstained_from() -> None:
    metrics = metrics_of(rows())
    interval = {"value": 0.2, "low": 0.1, "high": 0.3}
    metrics["systems"]["adapter"] = metrics["systems"]["adapter"] | {
        DISTRACTOR: {"abstention_recall": 0.25}
    }
    metrics |= {
        "asked": {DISTRACTOR: 25},
        "forgetting": {
            "base": {"perplexity": 20.0, "instructions_right": 4},
            "adapter": {"perplexity": 30.0, "instructions_right": 3},
            "perplexity_ratio": 1.5,
            "instructions_kept": 0.75,
        },
        "injections": {
            "adapter": {
                "obeyed": 0.1, "difference": -0.05, "low": -0.1, "high": 0.0, "records": 20,
                "metric": "token_f1", "smallest_detectable": 0.071,
            }
        },
        "prompts": {
            "comparison": {
                "mode": "retrieved", "metric": "token_f1", "records": 50,
                "scores": {"base": {"zero_shot": interval, "few_shot": interval}},
                "best": {"base": "few_shot"},
            }
        },
    }  # fmt: skip
    told = {answer.question: answer.text for answer in paragraphs(metrics)}
    forgotten = told["What did fine-tuning forget?"]
    assert all(part in forgotten for part in ("1.50 times", "4 plain instructions", "75%"))
    assert "by the adapter on 25%." in told["Who abstains when only wrong passages are shown?"]
    assert (
        "by the adapter in 10% of 20 records (token F1 -0.050 [-0.100, +0.000]). A real change"
        in told["Are instructions inside passages followed?"]
    )
    assert "base few shot is best" in told["Would another prompt do better?"]


def test_what_was_not_measured_is_not_told() -> None:
    metrics = metrics_of(rows()) | {"injections": {}, "prompts": {"comparison": None}}
    told = {answer.question for answer in paragraphs(metrics)}
    assert not any("instructions inside" in question or "prompt" in question for question in told)


def test_what_modes_buy_is_paired_over_the_records_of_both() -> None:
    modes = {
        "closed_book": [answered(0.1, record="a"), answered(0.3, record="b")],
        "retrieved": [answered(0.9, record="b"), answered(0.5, record="c")],
    }
    grouped = {"base": modes, "control": {"retrieved": modes["retrieved"]}}
    family = gain_family(scores_by_record(grouped, "token_f1"))
    [(pair, found)] = compare_families({"gains": family}, inference())["gains"].items()
    assert pair == ("base", "retrieved-closed_book")
    gain = found.whole.numbers()
    assert (gain["difference"], gain["records"]) == (pytest.approx(0.6), 1)
    assert gain["smallest_detectable"] is None
    assert "it takes two" in gain["smallest_detectable_reason"]


def shares(made: list[Prediction]) -> dict[str, Any]:
    found = abstention_shares({"base": {"retrieved": made}}, says_no(), share_interval())
    shares: dict[str, Any] = found["base"]["retrieved"]
    return shares


def test_shares_of_abstention_have_their_known_values() -> None:
    no = "I don't know."
    made = [
        answered(output=no, reference=no),
        answered(output="x", reference=no),
        *(answered(output=no if n == 0 else "서울", reference="서울") for n in range(4)),
    ]
    found = shares(made)
    assert found["unanswerable"] == {
        "value": 0.5, "low": pytest.approx(0.0945, abs=1e-3),
        "high": pytest.approx(0.9055, abs=1e-3), "records": 2,
    }  # fmt: skip
    assert (found["answerable"]["value"], found["answerable"]["records"]) == (0.25, 4)
    only = shares(made[2:])
    assert only.keys() == {"answerable"}


def test_metrics_modes_and_groups_that_are_new_show_up_by_themselves(tmp_path: Path) -> None:
    metrics = metrics_of(rows())
    metrics["systems"]["adapter"] |= {"distractor": {"exact_match": 0.5, "token_f1": 0.25,
                                                     "groundedness": 0.123,
                                                     "abstention_recall": 0.5}}  # fmt: skip
    metrics["asked"] = {"distractor": 4}
    metrics["perplexity"] = {"base": {"answers": 7.25}, "adapter": {"answers": 3.5}}
    metrics["prompts"] = {"base": "zero_shot", "comparison": None}
    grids = {grid.title: grid for grid in further_grids(metrics)}
    assert grids["Perplexity"].rows == (("base", "7.250"), ("adapter", "3.500"))
    assert grids["Prompts"].rows[0] == ("base", "zero_shot")
    page = (write(tmp_path / "new", metrics) / "report.html").read_text()
    for shown in ("distractor", "groundedness", "0.123", "Perplexity"):
        assert shown in page


def test_comparisons_show_tests_power_and_slices_where_they_are() -> None:
    metrics = metrics_of(rows())
    plain = {"difference": 0.1, "low": 0.0, "high": 0.2}
    found = plain | {"p_value": 0.04, "smallest_detectable": None, "records": 9}
    metrics["comparisons"] = {"adapter-base": found | {"slices": {"한국어": found}}}
    grid = comparison_grid(metrics)
    assert grid.columns[2:] == ("p", "smallest difference that would show", "records")
    assert grid.rows[1] == (
        "adapter − base, 한국어", "+0.100 [+0.000, +0.200]", "0.040", "–", "9",
    )  # fmt: skip


def test_a_comparisons_sides_are_told_apart_where_names_hold_dashes() -> None:
    systems = ("base", "student", "student-24", "control-24")
    assert sides("student-24-base", systems) == ("student-24", "base")
    assert sides("student-control-24", systems) == ("student", "control-24")


def test_size_tells_the_most_memory_held_or_a_dash() -> None:
    metrics = metrics_of(rows())
    metrics["sizes"]["control"] |= {"peak_megabytes": None, "peak_megabytes_reason": "not told"}
    grid = size_grid(metrics)
    place = grid.columns.index("most memory held")
    held = {row[0]: row[place] for row in grid.rows}
    assert (held["base"], held["control"]) == ("900 MB", "–")
    assert len(grid.columns) == len(grid.rows[0]) == 5


def test_no_time_that_a_batch_gave_is_told_as_the_time_to_an_answer(tmp_path: Path) -> None:
    metrics = metrics_of(rows())
    metrics["sizes"]["student"] |= {"latency_ms_p50": 1.25, "latency_ms_p95": 7.75}
    folder = write(tmp_path / "timed", metrics)
    page = (folder / "report.html").read_text()
    pictures = [
        base64.b64decode(found).decode()
        for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    ]
    shown = re.sub(r"base64,[^\"]+|<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S)
    told = "\n".join([shown, (folder / "report.md").read_text(), *pictures])
    # In words, tables and pictures, and in the data that the page sorts answers by.
    assert re.findall(r"(?i)\bms\b|_ms|millisecond|latenc|to an answer|\bs</text>", told) == []
    assert not {"0.02 s", "1.250", "7.750", "30.000"} & set(re.findall(r"[\d.]+(?: s\b)?", told))
    assert "throughput in batches, tokens a second" in told
    assert "480.000" in told
    assert "weights in memory, MB" in told


def test_names_from_data_stay_one_cell_of_a_markdown_table() -> None:
    grid = Grid("t", ("", "x|y"), (("a|b\n<i>", "1"),))
    assert grid.markdown().splitlines()[0] == "|  | x\\|y |"
    assert grid.markdown().splitlines()[2] == "| a\\|b \\<i\\> | 1 |"
