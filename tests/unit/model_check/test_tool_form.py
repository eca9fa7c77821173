"""What the check tells of tools: the form of a template that has one, and a template that loops."""

from dataclasses import replace

import pytest

from tasks.model_check.tool_form import tool_form
from tasks.stage.errors import ConfigError
from tests.builders.families import FAMILIES
from tests.builders.family_templates import CHATML, CHATML_TOOLS

pytestmark = pytest.mark.slow

OTHER = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
LOOPS = (
    "{% if tools %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    "{% endif %}" + CHATML
)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (CHATML, "shows none"),
        (CHATML_TOOLS, "in the form of task tools"),
        (OTHER, "a form of its own"),
    ],
)
def test_the_form_of_a_templates_tools_is_told(template: str, told: str) -> None:
    assert told in tool_form(replace(FAMILIES["qwen2"], template=template).tokenizer())


def test_a_template_that_runs_away_with_tools_is_refused() -> None:
    with pytest.raises(ConfigError, match="processor time"):
        tool_form(replace(FAMILIES["qwen2"], template=LOOPS).tokenizer())
