"""Docstrings of installed packages become documents and questions about them."""

import re
import subprocess
from collections import Counter
from typing import Any

import pytest

from tasks.ingestion.sources import python_docs
from tasks.ingestion.sources.python_docs import PythonDocs, plain_text, read_packages, shorten
from tasks.ingestion.sources.python_questions import READABLE_WORDS, first_sentence, masked
from tasks.services.processes import TELEMETRY_OFF
from tasks.stage.errors import ConfigError

pytestmark = pytest.mark.slow


def _read(package: str) -> PythonDocs:
    return read_packages([package], document_characters=600, unanswerable_share=0.12)


@pytest.fixture(scope="module")
def standard_library() -> PythonDocs:
    return _read("stdlib")


def test_the_standard_library_gives_thousands_of_each_and_every_kind(
    standard_library: PythonDocs,
) -> None:
    slices = Counter(row["slice"] for row in standard_library.records)

    assert len(standard_library.documents) >= 3000
    assert len(standard_library.records) >= 3000
    assert set(slices) == {"purpose", "name", "parameters", "unanswerable"}
    assert slices["unanswerable"] / len(standard_library.records) == pytest.approx(0.12, abs=0.01)


def test_ids_are_unique_and_every_gold_document_exists(standard_library: PythonDocs) -> None:
    documents = {row["id"]: row for row in standard_library.documents}
    records = {row["id"]: row for row in standard_library.records}

    assert len(documents) == len(standard_library.documents)
    assert len(records) == len(standard_library.records)
    for row in records.values():
        assert bool(row["documents"]) == (row["slice"] != "unanswerable")
        assert all(name in documents for name in row["documents"])


def test_answers_are_short_and_stand_in_what_the_first_passage_holds(
    standard_library: PythonDocs,
) -> None:
    documents = {row["id"]: row for row in standard_library.documents}
    for row in standard_library.records:
        assert 1 <= len(row["answer"]) <= 160
        if row["slice"] == "purpose":
            text = " ".join(documents[row["documents"][0]]["text"].split()[:READABLE_WORDS])
            assert row["answer"] in text


def test_names_that_are_asked_for_in_vain_do_not_exist(standard_library: PythonDocs) -> None:
    documented = {row["id"] for row in standard_library.documents}
    rows = [row for row in standard_library.records if row["slice"] == "unanswerable"]

    assert {row["answer"] for row in rows} == {"I don't know."}
    assert not {row["id"].partition("/")[2] for row in rows} & documented


def test_a_question_for_a_name_does_not_hold_the_name(standard_library: PythonDocs) -> None:
    for row in standard_library.records:
        if row["slice"] == "name" and "." in row["answer"]:
            last = row["answer"].rpartition(".")[2]
            description = re.search(r'"(.*)"', row["question"])
            assert description is not None
            assert not re.search(rf"(?<!\w){re.escape(last)}(?!\w)", description[1], re.I), row[
                "id"
            ]


def test_nothing_of_the_machine_is_in_the_texts(standard_library: PythonDocs) -> None:
    texts = [row["text"] for row in standard_library.documents]

    assert not [
        text for text in texts if re.search(r" at 0x[0-9a-f]|site-packages/\w|/tmp/doc", text)
    ]


def test_it_is_the_same_under_another_hash_seed_home_and_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = _read("json")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.chdir(tmp_path_factory.mktemp("folder"))

    assert _read("json") == first
    assert "json.dumps" in {row["id"] for row in first.documents}


def test_several_packages_give_what_each_gives_alone() -> None:
    def read(*packages: str) -> PythonDocs:
        return read_packages(packages, document_characters=600, unanswerable_share=0.12)

    both, one, other = read("json", "csv"), read("json"), read("csv")
    assert len(both.records) == len(one.records) + len(other.records)
    assert len(both.documents) == len(one.documents) + len(other.documents)


def test_a_package_that_is_not_installed_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no_such_package"):
        _read("no_such_package")


def test_plain_text_is_prose_without_signature_examples_or_markup() -> None:
    docstring = (
        "chain(*iterables) --> chain object\n\nReturn a :class:`chain` of ``iterables``.\n\n"
        ">>> chain()\n<chain object>\n\nMore."
    )

    assert plain_text(docstring) == "Return a chain of iterables.\n\nMore."


def test_a_text_is_cut_after_a_sentence() -> None:
    assert shorten("One two three. Four five six. Seven eight.", 30) == (
        "One two three. Four five six."
    )
    assert shorten("short", 30) == "short"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("Return it, e.g. The one thing. And more.", "Return it, e.g. The one thing."),
        ("Write the rows\nto a file.\n\nMore.", "Write the rows to a file."),
        ("Too short.", None),
        ("range(stop) gives an object with numbers", None),
    ],
)
def test_the_first_sentence_is_one_line_of_prose_or_none(body: str, sentence: str | None) -> None:
    assert first_sentence(body) == sentence


def test_a_name_is_masked_as_a_word_only() -> None:
    assert masked("Copy a file; copyright stays. See shutil.copy.", "shutil.copy") == (
        "___ a file; copyright stays. See ___."
    )


def test_a_package_is_not_told_what_this_process_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing one runs its code: it gets a path and a language, and no secret by any name."""
    told: dict[str, str] = {}

    def run(command: list[str], **given: Any) -> "subprocess.CompletedProcess[bytes]":
        told.update(given["env"])
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "ANY_NAME"):
        monkeypatch.setenv(name, "a secret")
    with pytest.raises(ConfigError):
        read_packages(["json"], document_characters=900, unanswerable_share=0.1)
    assert told["PATH"]
    assert "a secret" not in told.values()
    fixed = {"HOME", "BROWSER", "PYTHONHASHSEED"}
    assert told.keys() <= {*python_docs._ENVIRONMENT, *TELEMETRY_OFF, *fixed}
