"""The decision as a whole: what it tells, what it cannot do without, and who reigns."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import RULES, Decision, decide, rules_of
from tasks.promotion.params import Params
from tasks.promotion.results import Reason
from tasks.promotion.speed import Speed
from tasks.records.predictions import FEEDBACK, INJECTED, MODES
from tasks.records.schema import ServedModel
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.params import load_params
from tasks.statistics.bootstrap import Interval
from tasks.task_types.answer import ANSWER
from tests.builders.promotion_evidence import (
    BUNDLE,
    PARAMS,
    RECORDS,
    SYSTEMS,
    Change,
    Night,
    decided,
    good_night,
    outcomes,
    speed,
    told,
)

DRIFT = {"not_worse_than_best", "not_less_likely_than_best"}


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_good_model_is_promoted_with_every_rule_told(tmp_path: Path, model: ServedModel) -> None:
    decision = decided(tmp_path, model=model)
    assert decision.verdict == "promote"
    assert outcomes(decision, "warned") == set()
    assert outcomes(decision, "off") == DRIFT  # no champion but the one that not_worse looks at
    told = list(dict.fromkeys(item.rule.partition("/")[0] for item in decision.reasons))
    assert told == [rule.name for rule in rules_of(model, ANSWER)]
    for reason in decision.reasons:
        if reason.interval is not None:
            assert reason.value == reason.interval.value
            assert reason.interval.low <= reason.value <= reason.interval.high
    assert {item.rule for item in decision.reasons if "/" in item.rule} == {
        "not_worse/a", "not_worse/b", "not_less_likely/a", "not_less_likely/b",
    }  # fmt: skip


def test_a_verdict_is_a_table_of_numbers_bounds_and_intervals(tmp_path: Path) -> None:
    [row] = [item.row() for item in decided(tmp_path).reasons if item.rule == "beats_base"]
    assert list(row) == ["rule", "outcome", "found", "low", "high", "bound", "text"]
    assert (row["outcome"], row["bound"]) == ("passed", 0.0)
    assert 0.0 < row["low"] < row["found"] < row["high"]


def test_the_same_evidence_has_the_same_verdict(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert decided(tmp_path) == decided(tmp_path / "again")


def test_a_model_equal_to_the_base_refuses(tmp_path: Path) -> None:
    def same(night: Night) -> None:
        night.tonight.rows = [replace(row, token_f1=0.8) for row in night.tonight.rows]

    assert outcomes(decided(tmp_path, same), "refused") == {"power", "beats_base"}


def test_scores_without_variance_refuse_whatever_they_gain(tmp_path: Path) -> None:
    def flat(night: Night) -> None:
        night.tonight.rows = [
            replace(row, token_f1=0.2 if row.system == "base" else 0.8)
            for row in night.tonight.rows
        ]

    decision = decided(tmp_path, flat)
    assert outcomes(decision, "refused") == {"power"}
    assert "no variance was seen: all 40 differences are +0.6" in told(decision)[0].text


@pytest.mark.parametrize(("kept", "text"), [(4, "takes about"), (1, "1 records show no variance")])
def test_too_few_records_refuse_and_say_how_many_it_takes(
    tmp_path: Path, kept: int, text: str
) -> None:
    def few(night: Night) -> None:
        night.champion = None
        left = [row for row in night.tonight.rows if 0 < int(row.record[1:]) <= kept]
        odd = {("base", "r01"): 0.6}
        night.tonight.rows = [
            replace(r, token_f1=odd.get((r.system, r.record), r.token_f1)) for r in left
        ]

    decision = decided(tmp_path, few)
    assert outcomes(decision, "refused") == {"power"}
    assert text in told(decision)[0].text
    assert told(decision)[0].bound == PARAMS.rules.power.max_detectable


def test_a_system_that_was_never_asked_refuses(tmp_path: Path) -> None:
    def none(night: Night) -> None:
        night.tonight.rows = [row for row in night.tonight.rows if row.system != "adapter"]

    expected = {"same_records", "power", "stops", "readable", "beats_base", "not_worse"}
    assert outcomes(decided(tmp_path, none), "refused") == expected | {"groundedness"}


def test_scores_that_are_not_finite_refuse(tmp_path: Path) -> None:
    def lost(night: Night) -> None:
        night.tonight.rows = [
            replace(row, token_f1=float("nan")) if row.system == "adapter" else row
            for row in night.tonight.rows
        ]

    decision = decided(tmp_path, lost)
    assert outcomes(decision, "refused") == {"same_records", "power", "beats_base", "not_worse"}


def test_answers_to_passages_that_give_orders_change_no_verdict(tmp_path: Path) -> None:
    """Even of a model that obeyed every one of them, or of a base that answered all perfectly."""

    def injected(night: Night) -> None:
        night.tonight.rows += [
            replace(row, mode=INJECTED, output="PELICAN", token_f1=float(row.system == "base"))
            for row in night.tonight.rows
            if row.mode == "retrieved"
        ]
        for modes in night.tonight.metrics["systems"].values():
            modes[INJECTED] = dict(modes["retrieved"])
        night.tonight.metrics["injections"] = {system: {"obeyed": 1.0} for system in SYSTEMS}

    (tmp_path / "injected").mkdir()
    assert decided(tmp_path / "injected", injected) == decided(tmp_path)


@pytest.mark.parametrize("modes", [MODES, ("closed_book",)])
def test_no_rule_reads_held_out_feedback(tmp_path: Path, modes: tuple[str, ...]) -> None:
    """Even where the base answers it as corrected, and the adapter cuts and breaks each answer."""

    def corrected(night: Night) -> None:
        night.tonight.rows += [
            replace(
                row,
                mode=FEEDBACK,
                output="\ufffd",
                is_cut=True,
                groundedness=0.0,
                token_f1=float(row.system == "base"),
            )
            for row in night.tonight.rows
            if row.mode == "closed_book"
        ]
        for found in night.tonight.metrics["systems"].values():
            found[FEEDBACK] = dict(found["closed_book"]) | {"token_f1": 0.0}
        for shares in night.tonight.metrics["abstention_shares"].values():
            shares[FEEDBACK] = {"answerable": {"value": 1.0, "low": 1.0, "high": 1.0}}
        night.tonight.metrics["asked"] = {FEEDBACK: RECORDS}

    (tmp_path / "corrected").mkdir()
    assert decided(tmp_path / "corrected", corrected, modes=modes) == decided(tmp_path, modes=modes)


def offer_control(night: Night) -> None:
    night.tonight.metrics["offered"]["system"] = "control"
    night.tonight.rows = [
        replace(row, token_f1=row.token_f1 - 0.6) if row.system == "student" else row
        for row in night.tonight.rows
    ]


def test_a_control_that_is_offered_is_judged_in_the_students_place_and_told(tmp_path: Path) -> None:
    def control(night: Night) -> None:
        offer_control(night)
        night.champion = None

    decision = decided(tmp_path, control, model="student")
    assert decision.verdict == "promote"  # on the control's scores: the student's would not do
    [reason] = [item for item in decision.reasons if item.outcome == "warned"]
    assert reason.rule == "gain_over_control"
    assert reason.text.startswith(
        "distillation did not pay, so the control is offered: student gains"
    )


def test_without_an_offer_nothing_is_decided(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected student or control"):
        decided(tmp_path, lambda night: night.tonight.metrics.pop("offered"))


def test_without_documents_closed_book_decides_and_the_verdict_says_so(tmp_path: Path) -> None:
    def closed(night: Night) -> None:
        for shares in night.tonight.metrics["abstention_shares"].values():
            del shares["distractor"]

    decision = decided(tmp_path, closed, modes=("closed_book",))
    assert decision.verdict == "promote"
    assert outcomes(decision, "off") == DRIFT | {"retrieval_recall", "groundedness", "abstention"}
    texts = {item.rule: item.text for item in decision.reasons if item.outcome == "off"}
    assert "the data set has no documents" in texts["retrieval_recall"]
    assert "in mode distractor there were no questions" in texts["abstention"]
    [gain] = [item for item in decision.reasons if item.rule == "beats_base"]
    assert "in mode closed_book" in gain.text


def test_what_could_not_be_measured_is_off_with_its_reason(tmp_path: Path) -> None:
    def unknown(night: Night) -> None:
        night.tonight.metrics["retrieval"] |= {"recall_at_5": None, "recall_at_5_reason": "gone"}
        night.tonight.metrics["forgetting"] |= {
            "instructions_kept": None, "instructions_kept_reason": "the base gets none right",
        }  # fmt: skip

    decision = decided(tmp_path, unknown)
    assert decision.verdict == "promote"
    texts = {item.rule: item.text for item in decision.reasons if item.outcome == "off"}
    assert texts.keys() == DRIFT | {"retrieval_recall", "instructions"}
    assert texts["retrieval_recall"].endswith("gone")


def measured(what: str, low: float, value: float, high: float) -> Change:
    """A night on which the adapter took so many times what the base did."""

    def change(night: Night) -> None:
        assert night.speed is not None
        night.speed["over_base"]["adapter"][what] = {"value": value, "low": low, "high": high}

    return change


def speed_reasons(decision: Decision) -> list[Reason]:
    return [reason for reason in decision.reasons if reason.rule == "latency"]


@pytest.mark.parametrize("what", ["seconds", "cpu_seconds"])
def test_a_model_is_refused_for_its_speed_only_where_the_whole_interval_shows_it(
    tmp_path: Path, what: str
) -> None:
    decision = decided(tmp_path, measured(what, 1.51, 2.0, 2.5))
    assert outcomes(decision, "refused") == {"latency"}
    [slow] = [reason for reason in speed_reasons(decision) if reason.outcome == "refused"]
    assert (slow.value, slow.bound, slow.interval) == (2.0, 1.5, Interval(2.0, 1.51, 2.5))
    assert "2.00 times the base's" in slow.text
    assert "over 7 rounds in turns" in slow.text


@pytest.mark.parametrize(("low", "value", "high"), [(0.7, 1.1, 1.9), (1.2, 1.7, 2.9)])
def test_what_the_spread_of_a_busy_machine_hides_warns_and_says_so(
    tmp_path: Path, low: float, value: float, high: float
) -> None:
    decision = decided(tmp_path, measured("seconds", low, value, high))
    assert decision.verdict == "promote"
    assert outcomes(decision, "warned") == {"latency"}
    [reason] = decision.warned
    assert "The spread hides whether it is: `nightloom release` measures again" in reason.text


def test_what_cores_spent_is_not_read_where_models_compute_on_a_gpu(tmp_path: Path) -> None:
    def on_gpu(night: Night) -> None:
        measured("cpu_seconds", 3.0, 4.0, 5.0)(night)
        assert night.speed is not None
        night.speed["device"] = "cuda"

    [reason] = speed_reasons(decided(tmp_path, on_gpu))
    assert (reason.outcome, reason.value) == ("passed", 1.0)


def unmeasured(night: Night) -> None:
    night.speed = None


def few_rounds(night: Night) -> None:
    night.speed = speed(rounds=4)


def no_rounds(night: Night) -> None:
    night.speed = speed(rounds=0) | {"over_base": {}}


def of_another_bundle(night: Night) -> None:
    night.speed = speed() | {"bundle_sha256": f"c{BUNDLE[1:]}"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unmeasured, "an older release left no speed.json"),
        (few_rounds, "was measured in 4 rounds; at least 5 are needed"),
        (no_rounds, "was measured in 0 rounds; at least 5 are needed"),
        (of_another_bundle, "the speed is of another bundle"),
    ],
)
def test_speed_that_was_not_measured_warns_and_refuses_nothing(
    tmp_path: Path, change: Change, said: str
) -> None:
    decision = decided(tmp_path, change)
    assert decision.verdict == "promote"
    assert outcomes(decision, "warned") == {"latency"}
    assert said in told(decision)[0].text


def test_times_in_an_older_report_are_read_by_no_rule(tmp_path: Path) -> None:
    def timed(night: Night) -> None:
        for size in night.tonight.metrics["sizes"].values():
            size |= {"latency_ms_p95": 162_280.0, "first_token_ms_p50": 9_000.0}
        night.tonight.metrics["sizes"]["base"]["latency_ms_p95"] = 1.0

    assert decided(tmp_path, timed) == decided(tmp_path)


def test_a_bound_in_milliseconds_is_refused_with_what_took_its_place(tmp_path: Path) -> None:
    text = Path("params/promotion.yaml").read_text()
    old = "{enabled: true, severity: refuse, max_over_base: 1.5}"
    assert old in text
    new = "{enabled: true, severity: warn, max_over_base: 1.5, max_p95_ms: null}"
    path = tmp_path / "promotion.yaml"
    path.write_text(text.replace(old, new).replace("power: 0.8", "power: 8.0"))
    with pytest.raises(ConfigError) as caught:
        load_params(Params, [path])
    told = str(caught.value)
    assert "2 errors in params" in told
    assert f"{path}: rules.latency: " in told
    assert "max_p95_ms is gone" in told
    assert "expected max_over_base alone, the ratio to the base's time in turns" in told


def test_where_no_version_reigns_its_rules_are_off_and_told(tmp_path: Path) -> None:
    def alone(night: Night) -> None:
        night.champion = None

    decision = decided(tmp_path, alone)
    assert decision.verdict == "promote"
    assert outcomes(decision, "off") == DRIFT | {"not_worse", "not_less_likely"}


def test_a_reigning_version_that_lost_a_record_of_tonights_split_is_refused_by_name(
    tmp_path: Path,
) -> None:
    def fewer(night: Night) -> None:
        assert night.champion is not None
        night.champion.rows = [row for row in night.champion.rows if row.record != "r03"]

    decision = decided(tmp_path, fewer)
    assert outcomes(decision, "refused") == {"not_worse"}
    text = told(decision)[0].text
    assert "production:3 was scored on another test split: 39 of its 39 records" in text
    assert "rescoring" in text


@pytest.mark.parametrize("field", ["question", "reference"])
def test_another_text_under_the_same_id_is_another_split(tmp_path: Path, field: str) -> None:
    def other(night: Night) -> None:
        assert night.champion is not None
        night.champion.rows = [
            replace(row, **{field: "other"}) if row.record == "r03" else row
            for row in night.champion.rows
        ]

    decision = decided(tmp_path, other)
    assert outcomes(decision, "refused") == {"not_worse"}
    assert "39 of its 40 records" in told(decision)[0].text


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("likelihood_sha256", {"not_less_likely"}),
        ("scoring_sha256", {"not_worse", "not_less_likely"}),
    ],
)
@pytest.mark.parametrize("value", ["f" * 64, None])
def test_evidence_of_another_split_or_scoring_refuses(
    tmp_path: Path, name: str, value: Any, refused: set[str]
) -> None:
    def other(night: Night) -> None:
        assert night.champion is not None
        for found in (night.champion.metrics["test_split"], night.champion.packaging):
            found |= {name: value} if name in found else {}

    assert outcomes(decided(tmp_path, other), "refused") == refused


def test_two_evaluations_that_do_not_say_how_they_scored_are_not_compared(tmp_path: Path) -> None:
    def silent(night: Night) -> None:
        assert night.champion is not None
        for scored in (night.tonight, night.champion):
            del scored.metrics["test_split"]

    refused = outcomes(decided(tmp_path, silent), "refused")
    assert refused == {"not_worse", "not_less_likely"}


def test_a_slice_that_lost_refuses_though_all_records_together_did_not(tmp_path: Path) -> None:
    def one_slice(night: Night) -> None:
        assert night.champion is not None
        night.champion.rows = [
            replace(row, token_f1=row.token_f1 + (0.4 if row.slice == "b" else -0.6))
            for row in night.champion.rows
        ]

    decision = decided(tmp_path, one_slice)
    assert {item.rule for item in told(decision) if item.outcome == "refused"} == {"not_worse/b"}
    assert "corrected over 2 slices" in told(decision)[0].text


def test_a_reigning_version_that_answers_otherwise_by_now_warns(tmp_path: Path) -> None:
    def other_code(night: Night) -> None:
        assert night.champion is not None
        night.champion.metrics["golden_objection"] = "golden prompt 1 of 8 parts at token 6"

    decision = decided(tmp_path, other_code)
    assert decision.verdict == "promote"
    [reason] = [item for item in decision.reasons if item.outcome == "warned"]
    assert reason.rule == "not_worse"
    assert "production:3 answers otherwise by now" in reason.text
    assert reason.text.endswith("parts at token 6")


def test_a_slice_too_small_to_tell_warns(tmp_path: Path) -> None:
    def rare(night: Night) -> None:
        night.tonight.rows = [
            replace(row, slice="rare") if row.record in ("r00", "r01") else row
            for row in night.tonight.rows
        ]

    decision = decided(tmp_path, rare)
    assert decision.verdict == "promote"
    [reason] = [item for item in decision.reasons if item.outcome == "warned"]
    assert reason.rule == "not_worse/rare"
    assert "cannot rule out a loss of 0.25" in reason.text


def test_a_small_slice_in_which_everything_was_lost_refuses(tmp_path: Path) -> None:
    def broken(night: Night) -> None:
        assert night.champion is not None
        few = ("r00", "r01", "r02", "r03", "r04")
        night.tonight.rows = [
            replace(row, slice="rare", token_f1=0.0 if row.system == "adapter" else row.token_f1)
            if row.record in few
            else row
            for row in night.tonight.rows
        ]

    refused = {i.rule for i in decided(tmp_path, broken).reasons if i.outcome == "refused"}
    assert "not_worse/rare" in refused


def test_too_few_records_to_rule_a_loss_out_refuse(tmp_path: Path) -> None:
    def few(night: Night) -> None:
        assert night.champion is not None
        for scored in (night.tonight, night.champion):
            scored.rows = [row for row in scored.rows if int(row.record[1:]) < 20]

    decision = decided(tmp_path, few)
    assert outcomes(decision, "refused") == {"not_worse"}
    assert "takes about 29: raise evaluation.records" in told(decision)[0].text


def test_answers_that_are_all_the_same_as_the_reigning_ones_pass(tmp_path: Path) -> None:
    def same(night: Night) -> None:
        assert night.champion is not None
        night.champion.rows = [row for row in night.tonight.rows if row.system == "adapter"]
        night.champion.likelihoods = [
            row for row in night.tonight.likelihoods if row.system == "adapter"
        ]

    decision = decided(tmp_path, same)
    assert decision.verdict == "promote"
    [whole] = [item for item in decision.reasons if item.rule == "not_worse"]
    assert whole.value == 0.0
    assert f"over {RECORDS} records" in whole.text


FILES = [
    "validation/metrics.json", "curation/metrics.json", "parity.json", "speed.json",
    "shadow.json",
    "record_use.json",
    *(f"{place}{report}/{name}"
      for place in ("", "reigning/")
      for report, table in (("evaluation", "predictions"), ("packaging", "likelihoods"))
      for name in ("metrics.json", f"{table}.parquet")),
]  # fmt: skip
# An older release left none; or no question was served.
MAY_BE_MISSING = {"speed.json", "shadow.json"}


LOST = [
    (name, content)
    for name in FILES
    for content in (None, b"torn")
    if content is not None or name not in MAY_BE_MISSING
]


@pytest.mark.parametrize(("name", "content"), LOST)
def test_nothing_is_decided_without_evidence_or_on_torn_evidence(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    evidence = good_night().write(tmp_path, "adapter")
    assert len(evidence.digests()) == len(FILES) + 1  # and the list of the test records
    before = evidence.digests()
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
        assert evidence.digests() != before
    with pytest.raises(DataError, match=Path(name).name):
        decide(PARAMS, evidence, model="adapter")


def test_a_parity_that_is_not_finite_is_no_evidence(tmp_path: Path) -> None:
    def lost(night: Night) -> None:
        night.parity["models"]["adapter"]["mean_score_difference"] = float("nan")

    with pytest.raises(DataError, match="mean_score_difference"):
        decided(tmp_path, lost)


def test_the_verdict_of_a_night_in_every_mode_reads_the_mode_that_is_decided_on(
    tmp_path: Path,
) -> None:
    def elsewhere(night: Night) -> None:
        night.tonight.rows = [
            replace(row, token_f1=0.0) if row.mode != "retrieved" else row
            for row in night.tonight.rows
        ]

    (tmp_path / "elsewhere").mkdir()
    assert decided(tmp_path / "elsewhere", elsewhere) == decided(tmp_path, modes=MODES)


@pytest.mark.slow
def test_a_worker_that_decides_imports_nothing_heavy() -> None:
    code = (
        "import sys, tasks.promotion.decision;"
        "print({'torch', 'pandas', 'evaluate', 'transformers', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_documentation_tells_every_rule() -> None:
    text = Path("docs/reference/decision.md").read_text(encoding="utf-8")
    assert [rule.name for rule in RULES if f"| `{rule.name}` |" not in text] == []
    assert BUNDLE not in text


def test_a_speed_that_is_something_else_is_told_with_what_writes_it_again(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text('{"rounds": "many"}')
    with pytest.raises(DataError, match=r"speed\.json does not tell what.*") as error:
        Speed.read(path)
    assert "`nightloom release`" in error.value.remedy
