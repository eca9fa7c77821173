"""The families' tokenizers, their templates bound as a night binds them."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.models.loading import load_tokenizer
from tasks.models.template_binding import bind_folder
from tasks.stage.params import TemplateParams
from tests.builders.families import Family
from tests.builders.known_templates import rendered_here

Bind = Callable[[Family], Any]


@pytest.fixture(scope="session")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Bind:
    """What loads a family's tokenizer from a folder in which its template was bound."""
    made: dict[str, Any] = {}

    def bind(family: Family) -> Any:
        if family.name not in made:
            folder = tmp_path_factory.mktemp(family.name)
            family.tokenizer().save_pretrained(folder)
            with rendered_here():  # the family's features, written by us
                bind_folder(folder, template_params(family))
            made[family.name] = load_tokenizer(folder)
        return made[family.name]

    return bind


def template_params(family: Family) -> TemplateParams:
    return TemplateParams(arguments=dict(family.arguments), clock="2025-01-02", system="fold")
