"""The rule leaves out of a real night what is listed here by name, and nothing else."""

import tarfile
from pathlib import Path

from tests.fingerprint.outs import add_outs
from tests.fingerprint.values import LEFT_OUT, Values

STORE = Path(__file__).parents[1] / "frozen" / "store-718988b.tar.xz"
SYSTEMS = ("base", "adapter", "student", "twin")
TWIN = "students/1/twin"
ALL_MODES = ("closed_book", "retrieved", "oracle", "distractor")
OF_SYSTEMS = (
    "first_token_ms_p50", "first_token_ms_p95", "latency_ms_p50", "latency_ms_p95",
    "tokens_per_second", "peak_megabytes",
)  # fmt: skip


def listed() -> set[str]:
    """Every value that is left out of the files of one night."""
    report = "files/data/reports/evaluation"
    asked = {(system, mode) for system in SYSTEMS for mode in ALL_MODES}
    # Of student and twin the one that is not offered is asked in one mode alone.
    asked -= {("student", mode) for mode in ALL_MODES if mode != "retrieved"}
    times = {
        f"{report}/predictions.parquet:{system}/{mode}.{name}"
        for system, mode in asked
        for name in ("first_token_ms", "latency_ms")
    }
    sizes = {f"{report}/metrics.json:.sizes.{of}.{name}" for of in SYSTEMS for name in OF_SYSTEMS}
    seconds = {f"{report}/metrics.json:.seconds.{name}" for name in ("retrieval", *SYSTEMS)}
    intake = "files/data/raw/intakes/INTAKE-1/intake.json:"
    of_day = {f"{intake}.when", f"{intake}.source_updated", "files/data/raw.dvc"}
    of_day.add("files/data/reports/validation/metrics.json:.set.source_age_days")
    for made in ("adapter", "bundle/adapter", "bundle/student", "students/1/student", TWIN):
        of_day.add(f"files/data/{made}/training.json:.data_sha256")
    return times | sizes | seconds | of_day


def test_what_is_left_out_of_a_night_is_what_the_clock_and_the_machine_decide(
    tmp_path: Path,
) -> None:
    with tarfile.open(STORE) as archive:
        names = [item for item in archive.getmembers() if item.name.startswith("data/")]
        archive.extractall(tmp_path, names, filter="data")
    values = Values()
    add_outs(values, tmp_path, "files")
    assert {key for key, value in values.found.items() if value == LEFT_OUT} == listed()
    kept = {key.rpartition(":")[2] for key, value in values.found.items() if value != LEFT_OUT}
    assert {".sizes.adapter.megabytes", ".systems.adapter.oracle.token_f1", ".steps"} < kept


def test_of_answers_over_http_ids_and_times_are_left_out_and_no_name() -> None:
    values = Values()
    passage = {"id": "json.dumps#0", "score": 0.5}
    asked = {"version": 1, "passages": [passage], "first_token_ms": 1.0, "latency_ms": 2.0}
    answer = {"id": "chatcmpl-1", "created": 1, "model": "nightloom-adapter", "nightloom": asked}
    values.add_nested("http/answer/body", answer)
    begun = {"id": "chatcmpl-2", "created": 1, "nightloom": {"passages": [passage]}}
    values.add_nested("http/stream/body.first", begun)
    listed_model = {"id": "nightloom-adapter", "created": 1, "version": 1}
    values.add_nested("http/models/body", {"data": [listed_model]})
    served = {"adapter": {"version": 3, "since": "2026-11-28", "alias": "production"}}
    values.add_nested("http/health/body", {"models": served})
    assert {key for key, value in values.found.items() if value == LEFT_OUT} == {
        "http/answer/body.id",
        "http/answer/body.created",
        "http/answer/body.nightloom.first_token_ms",
        "http/answer/body.nightloom.latency_ms",
        "http/stream/body.first.id",
        "http/stream/body.first.created",
        "http/models/body.data.0.created",
        "http/health/body.models.adapter.since",
    }


def test_of_a_verdict_only_the_rule_of_wall_clock_time_is_left_out() -> None:
    values = Values()
    for rule in ("latency#1", "size#1"):
        found = {"outcome": "passed", "found": 1.2, "low": None, "high": None, "bound": 1.5}
        values.add_nested(f"night/verdict-adapter/{rule}", found | {"text": "1.20 times"})
    left = {key for key, value in values.found.items() if value == LEFT_OUT}
    names = ("outcome", "found", "low", "high", "text")
    assert left == {f"night/verdict-adapter/latency#1.{name}" for name in names}
