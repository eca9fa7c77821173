"""What a stage makes now against a version's lock: the same, but for times, differing, missing."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from flows.differences import Compared, as_made, compare_inputs, compare_outs, read_lock

NUMBERS = {
    "systems": {"adapter": {"closed_book": {"f1": 0.5}}},
    "sizes": {"adapter": {"latency_ms_p50": 12.5, "tokens_per_second": 40.0, "parameters": 7}},
    "seconds": {"adapter": 3.5},
}


def changed(**more: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(NUMBERS)), **more}


def write(folder: Path, numbers: dict[str, Any], answer: str = "a", latency: float = 1.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(numbers))
    table = pyarrow.table({"answer": [answer], "latency_ms": [latency]})
    parquet.write_table(table, folder / "predictions.parquet")
    (folder / "report.md").write_text(f"It took {latency} ms.")


def kept(folder: Path, cache: Path) -> str:
    """Put a folder into a cache as DVC does, and return its digest."""
    listed = []
    for path in sorted(folder.iterdir()):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        place = cache / digest[:2] / digest[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        listed.append({"md5": digest, "relpath": path.name})
    text = json.dumps(listed)
    digest = f"{hashlib.md5(text.encode()).hexdigest()}.dir"
    place = cache / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return digest


def lock(digest: str | None) -> dict[str, Any]:
    return {} if digest is None else {"outs": [{"path": "data/report", "md5": digest}]}


def compared(tmp_path: Path, numbers: dict[str, Any], **more: Any) -> Compared:
    """Compare a report with the one of before, which says NUMBERS."""
    cache, then, now = tmp_path / "cache", tmp_path / "then", tmp_path / "data" / "report"
    write(then, NUMBERS)
    write(now, numbers, **more)
    [one] = compare_outs(
        "evaluation", lock(kept(then, cache)), lock(kept(now, tmp_path / "other")), tmp_path, cache
    )
    return one


def test_equal_digests_are_the_same(tmp_path: Path) -> None:
    assert compared(tmp_path, NUMBERS).status == "same"


@pytest.mark.parametrize(
    ("numbers", "more"),
    [
        (changed(seconds={"adapter": 9.0}), {}),
        (changed(sizes={"adapter": {**NUMBERS["sizes"]["adapter"], "latency_ms_p50": 99.0}}), {}),
        (NUMBERS, {"latency": 7.0}),
    ],
)
def test_a_report_with_other_times_is_the_same_but_for_times(
    tmp_path: Path, numbers: dict[str, Any], more: dict[str, Any]
) -> None:
    assert compared(tmp_path, numbers, **more).status == "same but for times"


@pytest.mark.parametrize(
    ("numbers", "more", "file"),
    [
        (changed(systems={"adapter": {"closed_book": {"f1": 0.6}}}), {}, "metrics.json"),
        (changed(sizes={"adapter": {"parameters": 8}}), {}, "metrics.json"),
        (NUMBERS, {"answer": "b"}, "predictions.parquet"),
    ],
)
def test_another_number_or_answer_differs_and_its_file_is_named(
    tmp_path: Path, numbers: dict[str, Any], more: dict[str, Any], file: str
) -> None:
    one = compared(tmp_path, numbers, **more)
    assert (one.status, one.files) == ("differs", (file,))


def test_a_file_that_is_no_longer_kept_or_not_made_differs(tmp_path: Path) -> None:
    cache, then, now = tmp_path / "cache", tmp_path / "then", tmp_path / "data" / "report"
    write(then, NUMBERS)
    digest = kept(then, cache)
    write(now, changed(seconds={"adapter": 9.0}))
    (now / "predictions.parquet").unlink()
    [one] = compare_outs("evaluation", lock(digest), lock("b.dir"), tmp_path, cache)
    assert (one.status, one.files) == ("differs", ("predictions.parquet",))
    [one] = compare_outs("evaluation", lock("c.dir"), lock("b.dir"), tmp_path, cache)
    assert (one.status, one.files) == ("differs", ())


def test_a_stage_that_did_not_run_is_missing(tmp_path: Path) -> None:
    [one] = compare_outs("evaluation", lock("a.dir"), {}, tmp_path, tmp_path)
    assert (one.status, one.registered, one.now) == ("missing", "a.dir", None)


def test_code_data_and_params_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  one:\n    deps:\n    - {path: tasks/one, md5: a.dir}\n"
        "    - {path: data/raw, md5: b.dir}\n    params:\n      params/one.yaml: {k: 1}\n"
    )
    then = read_lock(tmp_path / "dvc.lock")["one"]
    now = {
        "deps": [{"path": "tasks/one", "md5": "x.dir"}, {"path": "data/raw", "md5": "b.dir"}],
        "params": {"params/one.yaml": {"k": 2}},
    }
    found = {(one.what, one.name): one.status for one in compare_inputs("one", then, now)}
    assert found == {
        ("data", "data/raw"): "same",
        ("code", "tasks/one"): "differs",
        ("params", "params/one.yaml"): "differs",
    }
    assert read_lock(tmp_path / "nowhere") == {}


def test_what_differs_in_times_alone_does_so_where_it_is_read(tmp_path: Path) -> None:
    made = compared(tmp_path, changed(seconds={"adapter": 9.0}))
    sides = [
        {"deps": [{"path": made.name, "md5": digest}, {"path": "data/b", "md5": digest}]}
        for digest in (made.registered, made.now)
    ]
    found = as_made(compare_inputs("packaging", *sides), [made])
    assert [one.status for one in found] == ["differs", "same but for times"]
    assert {one.stage for one in found} == {"packaging"}
