"""Bad rows leave with a reason; a bad set stops the night; a broken rule is neither."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from tasks.records.messages import MisshapenError
from tasks.records.schema import read_documents, read_records
from tasks.stage.errors import ConfigError, DataError, NightloomError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, output_folders, verified
from tasks.stage.params import read_yaml
from tasks.validation.__main__ import Paths, run
from tasks.validation.expectations import BrokenRuleError, SuiteRunner
from tasks.validation.features import count_scripts, parse_record
from tasks.validation.params import Params
from tasks.validation.profile import Profile
from tasks.validation.suites import read_suites
from tests.builders.hostile import HOSTILE, SCRIPT, raw_in_markdown, taken_for_html

SUITES = Path("params/validation")


def _params(root: Path, rules: dict[str, dict[str, Any]] | None = None, **changes: Any) -> Params:
    """The repository's params with small sets allowed; `rules` are changes, SUITE.RULE -> keys."""
    changed = {"set.enough_records": {"kwargs": {"column": "records", "min_value": 1}}}
    folder = _suites(root / "suites", changed | (rules or {}))
    validation = read_yaml(Path("params/validation.yaml")) | {"embedding_rows": 0}
    validation |= {"suites": str(folder), "max_quarantine_share": 0.95} | changes
    compute = read_yaml(Path("params/compute.yaml"))
    return Params.model_validate(
        {"task": {"name": "answer"}, "validation": validation, "compute": compute}
    )


def _suites(folder: Path, rules: dict[str, dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(SUITES.glob("*.yaml")):
        content = read_yaml(path)
        for key, change in rules.items():
            suite, name = key.split(".")
            if suite == path.stem:
                content[name] = content.get(name, {}) | change
        (folder / path.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _paths(root: Path) -> Paths:
    (root / "scratch").mkdir(exist_ok=True)
    return Paths(
        raw=root / "raw",
        embedder=root / "embedder.json",
        model_store=root / "store",
        accepted=root / "accepted",
        validation_report=root / "report",
        scratch=root / "scratch",
    )


def _intake(
    root: Path, name: str, records: Sequence[Any], documents: Sequence[Any] = (), **files: str
) -> Path:
    with output_folders(root / "raw" / "intakes" / name) as (folder,):
        for file, rows in (("records", records), ("documents", documents)):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            text = "".join(f"{line}\n" for line in lines)
            (folder / f"{file}.jsonl").write_text(text, encoding="utf-8")
        for file, text in files.items():
            (folder / f"{file}.json").write_text(text, encoding="utf-8")
    return root / "raw" / "intakes" / name


def _ask(identifier: str, **more: Any) -> dict[str, Any]:
    return {"id": identifier, "question": f"What is {identifier}?", "answer": "A letter."} | more


def _quarantine(root: Path) -> dict[Any, list[str]]:
    lines = (root / "scratch" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return {(row["id"], row["line"]): sorted(row["rules"]) for row in map(json.loads, lines)}


BAD = [
    _ask("good", documents=["d"]),
    _ask("twice"),
    _ask("twice"),
    {"id": "no answer", "question": "What is it?"},
    _ask("blank", answer="  "),
    _ask("echo", question="The same.", answer="The same."),
    _ask("dangling", documents=["d", "nowhere"]),
    {
        "id": "roles",
        "messages": [{"role": "assistant", "content": "A."}, {"role": "user", "content": "B."}],
    },
    {"id": "shapeless", "text": "?"},
    _ask("typed", answer=3),
    '{"id": NaN}',
    _ask("good too", documents=["d"]),
    {"question": "Who am I?", "answer": "Nobody."},
    '{"id": "lone", "question": "Q?", "answer": "\\ud800"}',
    _ask("lost", answer="What \ufffd\ufffd is"),
    _ask("wrong encoding", answer="안녕하세요".encode().decode("latin-1") + " cafÃ©"),
    _ask("cyrillic", question="Что это такое?", answer="Это буква."),
    _ask("korean", question="이건 뭐야?", answer="글자야."),
    '{"id": "doubled", "question": "Q?", "question": "R?", "answer": "A."}',
]
BROKEN = {
    ("twice", 2): ["id_is_unique"],
    ("twice", 3): ["id_is_unique"],
    ("no answer", 4): ["answer_is_not_empty"],
    ("blank", 5): ["answer_is_not_empty"],
    ("echo", 6): ["answer_differs_from_question"],
    ("dangling", 7): ["gold_documents_exist"],
    ("roles", 8): ["roles_take_turns"],
    ("shapeless", 9): ["has_the_schema"],
    ("typed", 10): ["has_the_schema"],
    (None, 11): ["id_is_there", "is_strict_json"],
    (None, 13): ["has_the_schema", "id_is_there"],
    (None, 14): ["id_is_there", "is_strict_json"],
    ("lost", 15): ["no_replacement_characters"],
    ("wrong encoding", 16): ["no_mojibake"],
    ("cyrillic", 17): ["known_scripts"],
    ("doubled", 19): ["is_strict_json"],
    ("e", 2): ["document_length"],
}


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [50_000, 3])
def test_every_kind_of_bad_row_goes_to_quarantine_with_its_rule(
    tmp_path: Path, batch_rows: int
) -> None:
    _intake(tmp_path, "1", BAD, [{"id": "d", "text": "A document."}, {"id": "e", "text": ""}])

    run(_params(tmp_path, batch_rows=batch_rows), _paths(tmp_path))

    accepted = read_records(tmp_path / "accepted/records.jsonl")
    assert [row.id for row in accepted] == ["good", "good too", "korean"]
    assert [row.id for row in read_documents(tmp_path / "accepted/documents.jsonl")] == ["d"]
    assert _quarantine(tmp_path) == BROKEN
    metrics = read_metrics(tmp_path / "report")
    assert metrics["records"]["quarantined"] == len(BROKEN) - 1
    assert metrics["rules"]["records"]["id_is_unique"] == 2
    places = parquet.read_table(tmp_path / "accepted/places.parquet").to_pylist()
    assert [(row["id"], row["line"]) for row in places] == [
        ("good", 1),
        ("good too", 12),
        ("korean", 18),
    ]


def test_a_later_intake_replaces_rows_and_keeps_the_others(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b")], [{"id": "d", "text": "An old document."}])
    _intake(tmp_path, "2", [_ask("b", answer="New.", documents=["d"])])

    run(_params(tmp_path), _paths(tmp_path))

    records = read_records(verified(tmp_path / "accepted") / "records.jsonl")
    assert [(row.id, row.answer, row.intake) for row in records] == [
        ("a", "A letter.", "1"),
        ("b", "New.", "2"),
    ]
    assert read_metrics(tmp_path / "report")["records"]["superseded"] == 1


def test_too_many_bad_rows_stop_the_night_and_leave_the_last_good_set(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b")])
    run(_params(tmp_path), _paths(tmp_path))
    before = (tmp_path / "accepted/records.jsonl").read_bytes()
    bad = _intake(tmp_path, "2", [_ask("c", answer=""), _ask("d", answer="", documents=["x"])])
    origins = {"kind": ["records"] * 2, "line": [1, 2], "file": ["in.csv"] * 2}
    parquet.write_table(pyarrow.table(origins | {"source_line": [8, 9]}), bad / "origins.parquet")
    (bad / "manifest.json").unlink()
    from tasks.stage.outputs import write_manifest

    write_manifest(bad)

    with pytest.raises(DataError) as error:
        run(_params(tmp_path, max_quarantine_share=0.1), _paths(tmp_path))

    message = error.value.message
    assert "2 of 4 records" in message
    # The worst first: the second row breaks two rules.
    assert message.index("2/records.jsonl:2 from in.csv:9 (id 'd')") < message.index("(id 'c')")
    assert ("c", 1) in _quarantine(tmp_path)
    assert "Stopped" in (tmp_path / "scratch/report.md").read_text()
    assert (tmp_path / "scratch/data_docs.html").exists()
    assert (tmp_path / "accepted/records.jsonl").read_bytes() == before


def test_all_rows_rejected_is_a_data_error_whatever_the_share(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a", answer="")])

    with pytest.raises(DataError, match="1 of 1 records break a rule"):
        run(_params(tmp_path, max_quarantine_share=1.0), _paths(tmp_path))

    assert not (tmp_path / "accepted").exists()


def test_an_empty_set_is_a_data_error(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [])

    with pytest.raises(DataError, match="enough_records: records is 0"):
        run(_params(tmp_path), _paths(tmp_path))


def test_one_row_that_breaks_a_fatal_rule_stops_the_night(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask(f"r{n}") for n in range(9)] + [_ask("bad", answer="")])
    rules = {"records.answer_is_not_empty": {"severity": "fatal"}}

    with pytest.raises(DataError, match=r"fatal: answer_is_not_empty \(1 rows\)"):
        run(_params(tmp_path, rules), _paths(tmp_path))


def test_a_rule_that_warns_keeps_the_row_and_counts_it(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a"), _ask("b", answer="A." * 30)])
    kwargs = {"column": "answer_characters", "max_value": 20}
    rules = {"records.answer_length": {"severity": "warning", "kwargs": kwargs}}

    run(_params(tmp_path, rules), _paths(tmp_path))

    metrics = read_metrics(tmp_path / "report")
    assert (metrics["records"]["accepted"], metrics["rules"]["records"]) == (
        2,
        {"answer_length": 1},
    )


def test_no_intake_at_all_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()

    with pytest.raises(DataError, match="no intake"):
        run(_params(tmp_path), _paths(tmp_path))


def test_a_rule_that_cannot_run_is_no_verdict_on_the_data(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a")])
    rules = {"records.roles_take_turns": {"kwargs": {"column": "roles", "regex": "(unclosed"}}}

    with pytest.raises(BrokenRuleError) as error:
        run(_params(tmp_path, rules), _paths(tmp_path))

    assert not isinstance(error.value, DataError)
    assert "rule roles_take_turns" in error.value.message
    assert "unterminated subpattern" in error.value.message or "(unclosed" in error.value.message
    assert str(tmp_path / "suites/records.yaml") in error.value.remedy


@pytest.mark.parametrize(
    ("rule", "change", "said"),
    [
        (
            "records.question_length",
            {"type": "expect_column_values_to_be_betwen"},
            "did you mean 'expect_column_values_to_be_between'",
        ),
        (
            "records.question_length",
            {"kwargs": {"column": "question_charcters", "max_value": 5}},
            "did you mean 'question_characters'",
        ),
        (
            "set.volume",
            {"kwargs": {"column": "record_ration", "max_value": 5}},
            "did you mean 'record_ratio'",
        ),
        (
            "documents.document_length",
            {"kwargs": {"column": "text_characters", "max_valu": 5}},
            "did you mean 'max_value'",
        ),
        (
            "records.question_length",
            {"kwargs": {"column": "question_characters", "max_value": [1]}},
            "refuses these arguments",
        ),
        ("records.question_length", {"severity": "deadly"}, "severity: input should be 'fatal'"),
        ("records.question_length", {"notse": "?"}, "notse: extra inputs"),
        ("set.volume", {"severity": "quarantine"}, "a whole set can't go to quarantine"),
        ("records.is_strict_json", {"severity": "warning"}, "only warns"),
        (
            "records.id_is_unique",
            {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
            "has no such rule",
        ),
        (
            "records.new",
            {
                "type": "expect_column_values_to_be_unique",
                "kwargs": {"column": "id"},
                "severity": "fatal",
                "notes": "?",
            },
            "compares rows of one batch",
        ),
        (
            "records.question_length",
            {"type": "expect_column_mean_to_be_between"},
            "checks a whole set and not each row",
        ),
        (
            "records.question_length",
            {"kwargs": {"column": "question_characters", "max_value": 5, "mostly": 0.9}},
            "counts within one batch",
        ),
    ],
)
def test_a_rule_that_is_none_is_a_config_error_that_names_it(
    tmp_path: Path, rule: str, change: dict[str, Any], said: str
) -> None:
    folder = _suites(tmp_path, {rule: change})
    suite, name = rule.split(".")
    with pytest.raises(ConfigError) as error:
        _build(folder)
    assert said in error.value.message
    assert f"{suite}.yaml" in error.value.message + error.value.remedy
    assert name in error.value.message or "id_rows" in error.value.message


def _build(folder: Path) -> None:
    for suite in read_suites(folder).values():
        SuiteRunner(suite)


def test_a_rule_given_twice_is_a_config_error(tmp_path: Path) -> None:
    folder = _suites(tmp_path, {})
    path = folder / "set.yaml"
    path.write_text(path.read_text() + "\nvolume: {}\n")
    with pytest.raises(ConfigError, match="gives rule volume twice"):
        read_suites(folder)


def _night(root: Path, name: str, records: Sequence[Any], **intake: Any) -> dict[str, Any]:
    """The metrics of a night whose intake carries the last accepted profile as its reference."""
    files = {}
    if (root / "accepted/profile.json").exists():
        files["reference"] = (root / "accepted/profile.json").read_text()
    if intake:
        files["intake"] = json.dumps({"when": "2026-05-01T00:00:00+00:00", **intake})
    _intake(root, name, records, **files)
    run(_params(root), _paths(root))
    return read_metrics(root / "report")


def _words(number: int, words: Sequence[str]) -> dict[str, Any]:
    chosen = " ".join(words[(number * step) % len(words)] for step in (1, 3, 7, 11))
    kind = ("x", "y")[number % 2]
    return _ask(f"{words[0]}{number}", question=f"What is {chosen}?", answer=chosen, slice=kind)


ENGLISH = tuple(
    ["river", "stone", "house", "garden", "letter", "window", "number", "table", "street", "music"]
)
FRENCH = tuple(
    ["eau", "pierre", "maison", "jardin", "lettre", "vitre", "nombre", "tapis", "rue", "chant"]
)
KOREAN = tuple(["강물", "바위", "집", "정원", "편지", "창문", "숫자", "책상", "거리", "음악"])


def test_a_first_night_says_which_rules_are_off_and_why(tmp_path: Path) -> None:
    night = _night(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)])

    assert "nothing was accepted before" in night["rules_off"]["volume"]
    assert "1 has no intake.json" in night["rules_off"]["freshness"]
    assert "nothing was accepted before" in (tmp_path / "report/report.md").read_text()
    assert night["set"]["record_ratio"] is None
    assert night["set_reasons"]["record_ratio"]


def test_more_of_the_same_passes_and_every_distance_is_known(tmp_path: Path) -> None:
    _night(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)])
    night = _night(
        tmp_path,
        "2",
        [_words(n, ENGLISH) for n in range(100, 150)],
        source_updated="2026-04-30T00:00:00Z",
    )

    assert night["set"]["record_ratio"] == 1.5
    assert night["set"]["source_age_days"] == 1
    assert night["set"]["vocabulary_distance"] < 0.1
    assert set(night["rules_off"]) == {
        "document_volume",
        "document_length_drift",
        "embedding_drift",
    }


@pytest.mark.parametrize(
    ("records", "rule"),
    [
        ([_words(n, ENGLISH) for n in range(100, 200)], "volume: record_ratio is 2"),
        ([_words(n, KOREAN) for n in range(90)], "language: script_distance"),
        ([_words(n, FRENCH) for n in range(90)], "vocabulary_drift: vocabulary_distance"),
        (
            [_ask(f"l{n}", answer="river stone " * 90, slice="x") for n in range(90)],
            "answer_length_drift: answer_length_distance",
        ),
        (
            [_words(n, ENGLISH) | {"slice": "z"} for n in range(100, 190)],
            "slice_balance: slice_distance",
        ),
    ],
)
def test_a_set_that_changed_too_much_overnight_stops_the_night(
    tmp_path: Path, records: list[dict[str, Any]], rule: str
) -> None:
    _night(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)])
    accepted = folder_files(tmp_path / "accepted")
    with pytest.raises(DataError) as error:
        _night(tmp_path, "2", records)
    assert rule in error.value.message
    assert "set.yaml" in error.value.remedy
    assert folder_files(tmp_path / "accepted") == accepted


@pytest.mark.parametrize(("slice_", "is_refused"), [("s", False), ("z", True)])
def test_a_second_source_renames_slices_and_that_alone_stops_no_night(
    tmp_path: Path, slice_: str, is_refused: bool
) -> None:
    """Slices that really change do."""
    rows = [_words(n, ENGLISH) | {"slice": "s"} for n in range(100)]
    _night(tmp_path, "1", rows, source="docs", sources=[{"name": "docs", "kind": "files"}])
    sources = [{"name": "docs", "kind": "files"}, {"name": "feedback", "kind": "feedback"}]
    later = [_words(n, ENGLISH) | {"slice": slice_} for n in range(60 if is_refused else 3)]

    def second() -> dict[str, Any]:
        return _night(tmp_path, "2", later, source="docs", sources=sources)

    if is_refused:
        with pytest.raises(DataError, match="slice_balance"):
            second()
    else:
        assert second()["set"]["slice_distance"] == 0
        accepted = read_records(tmp_path / "accepted/records.jsonl")
        assert {record.slice for record in accepted} == {"docs.s"}


def test_a_set_that_halves_stops_the_night(tmp_path: Path) -> None:
    _night(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)])
    emptied = [_words(n, ENGLISH) | {"answer": ""} for n in range(60)]
    with pytest.raises(DataError, match=r"volume: record_ratio is 0\.4"):
        _night(tmp_path, "2", emptied)


def test_an_old_source_warns(tmp_path: Path) -> None:
    records = [_words(n, ENGLISH) for n in range(100)]
    night = _night(tmp_path, "1", records, source_updated="2024-01-01T00:00:00")
    assert "source_age_days is 851" in night["warnings"]["freshness"]


@pytest.mark.parametrize(
    ("reference", "said"),
    [('{"records": 3}', "version None, not 1"), ('{"version": 2}', "version 2, not 1")],
)
def test_a_reference_of_another_version_is_not_compared_with(
    tmp_path: Path, reference: str, said: str
) -> None:
    _intake(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)], reference=reference)
    run(_params(tmp_path), _paths(tmp_path))
    assert said in read_metrics(tmp_path / "report")["rules_off"]["volume"]


@pytest.mark.parametrize("reference", ['{"version": 1}', "{"])
def test_a_torn_reference_is_a_data_error(tmp_path: Path, reference: str) -> None:
    _intake(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)], reference=reference)
    with pytest.raises(DataError, match="no profile of accepted data"):
        run(_params(tmp_path), _paths(tmp_path))


@pytest.mark.slow
def test_equal_input_gives_equal_bytes_whatever_the_batches_and_the_hash_seed(
    tmp_path: Path,
) -> None:
    """Here, under a seed that Python drew, and by the stage's command under another one."""
    found = []
    for name, rows in (("here", 50_000), ("command", 4)):
        root = tmp_path / name
        _intake(root, "1", BAD, [{"id": "d", "text": "A document."}])
        (root / "embedder.json").write_text("{}")
        (root / "store").mkdir()
        content = _params(root, batch_rows=rows).model_dump()
        content["validation"] |= {"suites": str(SUITES)}
        # The set is too small for the repository's own rules, which is why scratch is compared.
        if name == "here":
            with pytest.raises(NightloomError, match="enough_records"):
                run(Params.model_validate(content), _paths(root))
        else:
            assert "enough_records" in _error_of_command(root, content, "2")
        found.append(_left_in_scratch(root / "scratch"))
    assert found[0] == found[1]


def _error_of_command(root: Path, params: dict[str, Any], seed: str) -> str:
    for name, content in params.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    files = [str(root / f"{name}.yaml") for name in params]
    options = [f"--{k}={v}" for k, v in vars(_paths(root)).items()]
    done = subprocess.run(
        [sys.executable, "-m", "tasks.validation", "--params", *files, *options],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd()), "PATH": ""},
    )
    return done.stderr


def _left_in_scratch(scratch: Path) -> list[Any]:
    """What a refused set leaves, but for how many batches there were."""
    folder = scratch / "validation" if (scratch / "validation").exists() else scratch
    docs = (folder / "data_docs.html").read_text()
    return [
        (folder / "quarantine.jsonl").read_bytes(),
        (folder / "report.md").read_bytes(),
        "\n".join(line for line in docs.splitlines() if "batches checked" not in line),
    ]


def test_data_docs_are_one_file_that_asks_the_network_for_nothing(tmp_path: Path) -> None:
    _intake(tmp_path, "1", BAD, [{"id": "d", "text": "A document."}])
    run(_params(tmp_path), _paths(tmp_path))
    page = (tmp_path / "report/data_docs.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "roles_take_turns" in page
    assert len(page) < 200_000


def test_the_profile_is_bounded_however_odd_the_words_are(tmp_path: Path) -> None:
    odd = [
        _ask(f"r{n}", question=f"{n:x}" * 60 + "é" * 90, slice="긴 이름" * 40 + str(n))
        for n in range(1500)
    ]
    _intake(tmp_path, "1", odd)
    run(_params(tmp_path), _paths(tmp_path))
    path = tmp_path / "accepted/profile.json"
    assert path.stat().st_size < 200_000
    assert Profile.model_validate_json(path.read_bytes()).records == 1500


def test_vectors_are_compared_only_with_those_of_the_same_embedder(
    tmp_path: Path, tiny: Any
) -> None:
    paths = _paths(tmp_path)
    paths = Paths(**vars(paths) | {"embedder": tiny.embedder, "model_store": tiny.store})
    _intake(tmp_path, "1", [_words(n, ENGLISH) for n in range(100)])
    params = _params(tmp_path, embedding_rows=50)
    run(params, paths)
    profile = Profile.model_validate_json((tmp_path / "accepted/profile.json").read_bytes())
    assert profile.embedding is not None
    assert profile.embedding.rows == 50
    text = profile.model_dump_json()
    _intake(tmp_path, "2", [_words(101, ENGLISH)], reference=text)
    run(params, paths)
    assert read_metrics(tmp_path / "report")["set"]["embedding_distance"] < 0.01

    other = text.replace(profile.embedding.embedder, "0" * 64)
    _intake(tmp_path, "3", [_words(102, ENGLISH)], reference=other)
    run(params, paths)
    assert "two embedders" in read_metrics(tmp_path / "report")["rules_off"]["embedding_drift"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?", "answer": "A."},
        {"prompt": "Q?", "completion": "A."},
        {
            "prompt": [{"role": "user", "content": "Q?"}],
            "completion": [{"role": "assistant", "content": "A."}],
        },
        {
            "messages": [
                {"role": "user", "content": "Q?"},
                {"role": "assistant", "content": "A."},
            ]
        },
    ],
)
def test_every_shape_of_a_row_is_the_same_record(row: dict[str, Any]) -> None:
    record = parse_record({"id": "a", "documents": ["d"]} | row, "1")

    assert (record.question, record.answer, record.group) == ("Q?", "A.", "d")


def test_a_group_is_given_or_the_first_document_or_the_id() -> None:
    assert parse_record(_ask("a", documents=["d"], group="g"), "1").group == "g"
    assert parse_record(_ask("a", documents=["d"]), "1").group == "d"
    assert parse_record(_ask("a"), "1").group == "a"


def test_labels_are_what_stands_between_the_spaces() -> None:
    record = parse_record(_ask("a", slice="2   ", source="\tmail", license=" "), "1")
    assert (record.slice, record.source, record.license) == ("2", "mail", "unknown")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_ids_of_an_accepted_row_are_in_one_unicode_form(form: Any) -> None:
    name = unicodedata.normalize(form, "휴가 é")
    record = parse_record(_ask(name, documents=[name]), "1")
    assert {record.id, record.group, *record.documents} == {"휴가 é"}


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [1, 50_000])
def test_rows_that_ask_not_to_be_learned_from_are_no_faults(
    tmp_path: Path, batch_rows: int
) -> None:
    unlearned = [_ask(f"k{n}", label=False, note="?") for n in range(7)]
    documents = [{"id": "d", "text": "A document.", "url": "x", "pages": None}]
    rows = [*unlearned, _ask("a", note="!"), _ask("b", answer="", note="!")]
    intake = {"when": "2026-01-02T00:00:00+00:00", "unmet": {"records": ["Frage"], "documents": []}}
    _intake(tmp_path, "1", rows, documents, intake=json.dumps(intake))

    run(_params(tmp_path, batch_rows=batch_rows, max_quarantine_share=0.5), _paths(tmp_path))

    metrics = read_metrics(tmp_path / "report")
    records = metrics["records"]
    assert (records["current"], records["accepted"], records["quarantined"]) == (2, 1, 1)
    assert records["unlearned"] == {"label is false": 7}
    assert records["unread"] == {"note": 2}
    assert metrics["documents"]["unread"] == {"url": 1}
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Named in `columns.records` and in no row of the newest intake: Frage." in report


def test_rows_without_an_answer_name_the_columns_that_may_hold_it(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [{"id": n, "prompt": f"{n}?", "response": "Yes."} for n in "abc"])

    with pytest.raises(DataError) as caught:
        run(_params(tmp_path), _paths(tmp_path))

    assert (
        "a column that nobody reads holds what is missing (response (3 rows)), name it under"
        in (caught.value.remedy)
    )


def test_a_set_of_which_all_is_read_says_nothing_of_it(tmp_path: Path) -> None:
    _intake(tmp_path, "1", [_ask("a", slice="s", group="g", license="MIT", source="mail")])

    run(_params(tmp_path), _paths(tmp_path))

    assert set(read_metrics(tmp_path / "report")["records"]) == {
        "current",
        "accepted",
        "quarantined",
        "superseded",
        "quarantine_share",
    }
    assert "nobody reads" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_misshapen_row_says_what_was_found() -> None:
    with pytest.raises(MisshapenError, match="documents is str 'd'; expected a list of texts"):
        parse_record(_ask("a", documents="d"), "1")


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Plain, 3.", (5, 0, 0, 0, 0)),
        ("한국어 and 漢字", (3, 3, 2, 0, 0)),
        ("ひらがなカー Ünï", (3, 0, 0, 6, 0)),
        ("Привет 3!", (0, 0, 0, 0, 6)),
    ],
)
def test_letters_are_counted_by_script(text: str, counts: tuple[int, ...]) -> None:
    assert count_scripts(text) == counts


@pytest.mark.slow
def test_no_text_of_the_data_or_of_a_rule_is_taken_for_html_by_a_page(tmp_path: Path) -> None:
    turns = [{"role": HOSTILE, "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    rows: list[Any] = [
        _ask(HOSTILE), _ask(f"{HOSTILE} 2", question=HOSTILE, answer=HOSTILE),
        {"id": f"{HOSTILE} roles", "messages": turns}, _ask("odd", **{HOSTILE: 3}),
        _ask("typed", documents=[HOSTILE]), _ask("sliced", slice=HOSTILE, source=HOSTILE),
        _ask("good"), '{"id": "' + SCRIPT + '", "answer": NaN}',
    ]  # fmt: skip
    _intake(tmp_path, SCRIPT.replace("/", ""), rows, [{"id": HOSTILE, "text": HOSTILE}])
    kwargs = {"column": "id", "regex": "<"}
    rule = {"type": "expect_column_values_to_not_match_regex", "kwargs": kwargs}
    rules = {"records.marked": rule | {"severity": "warning", "notes": HOSTILE}}
    run(_params(tmp_path, rules, max_quarantine_share=0.99), _paths(tmp_path))
    page = (tmp_path / "report/data_docs.html").read_text()
    assert "alert" in page  # the texts are shown
    assert taken_for_html(page) == []
    assert raw_in_markdown((tmp_path / "report/report.md").read_text()) == []
