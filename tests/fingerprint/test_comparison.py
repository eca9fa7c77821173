"""Two fingerprints are equal but for the list of renames, and every other difference is named."""

from pathlib import Path
from typing import Any

import pytest

from tests.fingerprint.__main__ import main
from tests.fingerprint.comparison import Renames, compare
from tests.fingerprint.values import LEFT_OUT, Values

NONE = Renames(keys=[], values=[], expected=[])
BEFORE = {
    "files/metrics.json:.systems.twin.token_f1": 0.5,
    "files/students/1/twin/model.safetensors": "a" * 64,
    "files/metrics.json:.offered.system": "twin",
    "help/nightloom up": "Start Prefect.\n--timezone  Of --cron.",
}
RENAMES = {
    "keys": [{"old": r"\btwin\b", "new": "control", "why": "the field's name"}],
    "values": [
        {"key": r"offered\.system$", "old": "^twin$", "new": "control", "why": "the field's name"}
    ],
    "expected": [{"key": "^help/", "why": "help names every default"}],
}


def renames(**lists: Any) -> Renames:
    return Renames.model_validate({"keys": [], "values": [], "expected": []} | lists)


def test_a_fingerprint_is_equal_to_itself() -> None:
    assert compare(BEFORE, dict(BEFORE), NONE).differences == []


@pytest.mark.parametrize(
    ("before", "after"),
    [(0.5, 0.5000000000000001), (1, 1.0), (1, True), ("1", 1), (None, 0), (None, LEFT_OUT)],
)
def test_values_that_differ_in_the_last_digit_or_in_kind_are_told(before: Any, after: Any) -> None:
    [found] = compare({"key": before}, {"key": after}, NONE).differences
    assert (found.kind, found.before, found.after) == ("changed", before, after)


def test_what_came_and_what_went_is_told() -> None:
    found = compare({"old": 1, "kept": 2}, {"new": 1, "kept": 2}, NONE)
    assert [(item.key, item.kind) for item in found.differences] == [
        ("new", "new"),
        ("old", "gone"),
    ]


def test_renamed_keys_and_values_are_compared_under_their_new_names() -> None:
    after = {
        "files/metrics.json:.systems.control.token_f1": 0.5,
        "files/students/1/control/model.safetensors": "a" * 64,
        "files/metrics.json:.offered.system": "control",
        "help/nightloom up": "Start Prefect.\n--timezone  Timezone of --cron.",
    }
    found = compare(BEFORE, after, renames(**RENAMES))
    assert (found.differences, found.unused) == ([], [])
    assert [item.key for item in found.expected] == ["help/nightloom up"]


def test_a_number_that_moved_under_a_renamed_key_is_told() -> None:
    [found] = compare(
        {"twin.f1": 0.5}, {"control.f1": 0.6}, renames(keys=RENAMES["keys"])
    ).differences
    assert found.lines() == ["changed: control.f1", "  before 0.5", "  after  0.6"]


def test_an_entry_of_the_list_that_matches_nothing_is_told() -> None:
    found = compare({"key": 1}, {"key": 1}, renames(**RENAMES))
    assert len(found.unused) == 3
    assert found.differences == []


def test_a_list_that_makes_one_key_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match=r"makes two keys control\.f1"):
        compare({"twin.f1": 1, "control.f1": 2}, {}, renames(keys=RENAMES["keys"]))


def test_of_long_texts_the_lines_that_differ_are_shown() -> None:
    texts = ("one\ntwo\nthree", "one\n2\nthree")
    [found] = compare({"help": texts[0]}, {"help": texts[1]}, NONE).differences
    assert found.lines()[0] == "changed: help"
    assert {"  -two", "  +2"} < set(found.lines())


def test_a_run_s_own_names_are_replaced_and_a_key_is_given_once() -> None:
    values = Values({"/tmp/here": "CHECKOUT", "/tmp/here/now": "NOW"})
    values.add("/tmp/here/key", "at /tmp/here/now and /tmp/here")
    assert values.found == {"CHECKOUT/key": "at NOW and CHECKOUT"}
    with pytest.raises(ValueError, match="two values"):
        values.add("CHECKOUT/key", "again")


def test_the_command_ends_with_0_where_all_is_equal_and_1_where_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for number in (1, 2):
        files.append(tmp_path / f"{number}.json")
        text = '{"commit": "c", "night": "tiny", "values": {"key": %d, "same": "x"}}'
        files[-1].write_text(text % number)
    listed = tmp_path / "renames.yaml"
    listed.write_text("keys: []\nvalues: []\nexpected: []\n")
    options = ["--renames", str(listed)]
    assert main(["compare", str(files[0]), str(files[0]), *options]) == 0
    assert main(["compare", str(files[0]), str(files[1]), *options]) == 1
    assert "changed: key\n  before 1\n  after  2" in capsys.readouterr().out


def test_the_projects_own_list_of_renames_can_be_read() -> None:
    assert Renames.read(Path(__file__).parent / "renames.yaml").keys
