"""The families' folders, and what a night would do with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.model_check.checks import Params, check_base
from tasks.model_check.findings import Finding
from tasks.model_check.sources import open_source
from tasks.stage.params import BaseSource, TemplateParams, read_yaml
from tests.builders.families import Family

Check = Callable[[Family], dict[str, Finding]]


def night_params(**changes: Any) -> Params:
    """The params of the repository, with a student of one layer; `changes` by FILE__KEY."""
    files = ("models", "finetuning", "distillation", "compute")
    content = {name: read_yaml(Path(f"params/{name}.yaml")) for name in files}
    for key, value in ({"distillation__students": [1], "finetuning__rank": 4} | changes).items():
        file, _, name = key.partition("__")
        content[file][name] = value
    return Params.model_validate(content)


def source_of(folder: Path, family: Family) -> BaseSource:
    template = TemplateParams(arguments=dict(family.arguments), clock="2025-01-02", system="fold")
    return BaseSource(source=str(folder), revision=None, template=template)


def check_family(family: Family, place: Path) -> dict[str, Finding]:
    """What is found of a family, written below `place`, by name."""
    folder = family.write(place / family.name / "model")
    with open_source(source_of(folder, family), folder.parent / "store") as view:
        found = list(check_base(view, night_params()))
    return {finding.name: finding for finding in found}


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What is found of a family, by name; each is looked at once."""
    known: dict[str, dict[str, Finding]] = {}

    def check(family: Family) -> dict[str, Finding]:
        if family.name not in known:
            known[family.name] = check_family(family, tmp_path_factory.mktemp("checked"))
        return known[family.name]

    return check
