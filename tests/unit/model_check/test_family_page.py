"""docs/reference/model_families.md says of each family what the check finds today."""

import pytest

from tests.builders.families import FAMILIES
from tests.unit.model_check.conftest import Check
from tests.unit.model_check.family_table import NAMES, PAGE, is_yes, table, with_table

pytestmark = pytest.mark.slow

# Families of which everything must be a yes, but for what `EXPORTED` lacks.
WHOLE = ("llama3", "llama2", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mistral")


def test_the_page_tells_what_the_check_finds(checked: Check) -> None:
    found = {key: checked(family) for key, family in FAMILIES.items()}
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, table(found)), (
        "write the page anew: python -m tests.unit.model_check.family_table"
    )


def test_the_page_names_every_family() -> None:
    assert NAMES.keys() == FAMILIES.keys()
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_refused_of_the_families_that_people_bring(name: str, checked: Check) -> None:
    found = checked(FAMILIES[name])
    assert [finding for finding in found.values() if finding.fault is not None] == []
    assert is_yes(found["packed"])
    assert is_yes(found["pruned"])


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(WHOLE)))
def test_what_is_no_is_told_before_training_with_what_to_do(name: str, checked: Check) -> None:
    for finding in checked(FAMILIES[name]).values():
        if finding.fault is not None:
            assert finding.remedy
        elif not is_yes(finding) and finding.name == "GGUF":
            assert finding.found.endswith("safetensors, yes")
