"""A chat template is bound to what params say, and a bad one is refused by name."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from tasks.models import template_rendering
from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.models.template_binding import bind_folder, bind_template, bound_settings
from tasks.models.template_rendering import Chat, render_bounded
from tasks.stage.errors import ConfigError
from tasks.stage.params import ModelsParams, TemplateParams, validate_params
from tests.builders.families import FAMILIES, Family
from tests.unit.conftest import Tiny

pytestmark = pytest.mark.slow

DAY = date(2025, 1, 2)
PLAIN = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
)
EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def params(**changes: Any) -> TemplateParams:
    usual: dict[str, Any] = {"arguments": {}, "clock": str(DAY), "system": "fold"}
    return TemplateParams(**usual | changes)


@EVERY
def test_a_bound_template_renders_what_the_family_s_own_does_with_these_arguments(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class _Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "_Day":
            return cls(DAY.year, DAY.month, DAY.day)

    own = family.tokenizer()
    own.save_pretrained(tmp_path)
    bind_folder(tmp_path, params(arguments=dict(family.arguments)))
    bound = AutoTokenizer.from_pretrained(tmp_path)
    monkeypatch.setattr(chat_template_utils, "datetime", _Day)
    chat = [
        {"role": role, "content": f" {role} {number}? "}
        for number, role in enumerate(("user", "assistant", "user", "assistant"))
    ]
    for end in (1, 2, 3, 4):
        for asked in (False, True):
            one, other = (
                tokenizer.apply_chat_template(
                    chat[:end], tokenize=False, add_generation_prompt=asked, **arguments
                )
                for tokenizer, arguments in ((own, family.arguments), (bound, {}))
            )
            assert one == other
    chat_template_utils._compile_jinja_template.cache_clear()


@EVERY
def test_binding_again_changes_nothing_and_other_params_take_the_place_of_the_first(
    family: Family, tmp_path: Path
) -> None:
    family.tokenizer().save_pretrained(tmp_path)
    settings = params(arguments=dict(family.arguments))
    told = bind_folder(tmp_path, settings)
    first = (tmp_path / "chat_template.jinja").read_text()
    assert bind_folder(tmp_path, settings) == told
    assert (tmp_path / "chat_template.jinja").read_text() == first
    later = bind_folder(tmp_path, params(arguments=dict(family.arguments), clock="2026-03-04"))
    second = (tmp_path / "chat_template.jinja").read_text()
    assert (second != first) == family.reads_clock
    assert ("clock" in (later or {})) == family.reads_clock
    assert second.endswith(family.template)


def test_a_template_that_needs_nothing_stays_as_it_is() -> None:
    assert bind_template(PLAIN, params(), {}) == PLAIN
    assert bind_template(PLAIN, None, {}) == PLAIN


def test_the_default_base_s_folder_keeps_its_digest(tiny: Tiny, tmp_path: Path) -> None:
    bound = convert("tiny:llama", None, "causal_lm", tmp_path, params())
    assert bound == ModelManifest.read(tiny.base)
    bound.write(tmp_path / "base.json")
    assert (tmp_path / "base.json").read_bytes() == tiny.base.read_bytes()


def test_what_was_bound_is_in_the_manifest_and_changes_its_digest(tmp_path: Path) -> None:
    family = FAMILIES["llama3"]
    folder = family.write(tmp_path / "source")
    store = tmp_path / "store"
    one, other = (
        convert(str(folder), None, "causal_lm", store, params(clock=str(day)))
        for day in (DAY, date(2025, 1, 3))
    )
    assert one.template == {"clock": "2025-01-02"}
    assert one.digest != other.digest
    one.write(tmp_path / "base.json")
    assert ModelManifest.read(tmp_path / "base.json") == one
    template = str(load_tokenizer(one.folder(store)).chat_template)
    assert bound_settings(template) == one.template
    assert "02 Jan 2025" in template


def test_a_template_in_the_tokenizer_s_settings_is_bound_too(tmp_path: Path) -> None:
    family = FAMILIES["granite"]
    family.tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    (tmp_path / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": family.template}, {"name": "rag", "template": "x"}]
    for given in (family.template, named):
        path.write_text(json.dumps(settings | {"chat_template": given}))
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        assert bind_folder(tmp_path, params()) == {"clock": "2025-01-02"}
        assert "January 02, 2025" in str(load_tokenizer(tmp_path).chat_template)


def test_a_folder_whose_template_reads_the_clock_is_not_loaded(tmp_path: Path) -> None:
    FAMILIES["llama3"].tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="asks for today's date"):
        load_tokenizer(tmp_path)


def test_without_params_a_clock_or_a_refused_system_turn_is_an_error() -> None:
    for name, what in (("llama3", "asks for today's date"), ("gemma2", "renders no system turn")):
        with pytest.raises(ConfigError, match=what):
            bind_template(FAMILIES[name].template, None, {"bos_token": "<s>"})
    with pytest.raises(ConfigError, match="renders no system turn") as caught:
        bind_template(FAMILIES["gemma2"].template, params(system="refuse"), {"bos_token": "<s>"})
    assert "system: fold" in caught.value.remedy


def test_an_argument_that_the_template_does_not_ask_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"enable_thinkin; .* asks for .*enable_thinking"):
        bind_template(FAMILIES["qwen3"].template, params(arguments={"enable_thinkin": False}), {})


@pytest.mark.parametrize(
    "value", [None, True, 3, 2.5, "a \"b\" 'c' \\ {{ x }} {% y %} #} \n 하늘", ["x", 1], {"a": [1]}]
)
def test_an_argument_comes_in_as_it_was_given(value: Any) -> None:
    template = PLAIN + "{{ given | tojson }}"
    bound = bind_template(template, params(arguments={"given": value}), {})
    [found] = render_bounded(bound, {}, [Chat((("user", "x"),))])
    assert json.loads(found.text.partition("user: x\n")[2]) == value
    assert bound_settings(bound) == {"arguments": {"given": value}}


@pytest.mark.parametrize("name", ["messages", "strftime_now", "bos_token", "a b", "1a", "", "é"])
def test_an_argument_of_a_reserved_or_impossible_name_is_refused(name: str) -> None:
    content = {
        "embedder": {"source": "embedded:x", "revision": None},
        "student": None,
        "numeric_form": "float",
        "base": {
            "source": "tiny:llama",
            "revision": None,
            "template": {"arguments": {name: 1}, "clock": str(DAY), "system": "fold"},
        },
    }
    with pytest.raises(ConfigError, match="no template takes an argument"):
        validate_params(ModelsParams, content, [Path("params/models.yaml")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% include '/etc/passwd' %}", "has an include statement in line 1"),
        ("x\n{% import 'x' as y %}", "has an import statement in line 2"),
        ("{% extends 'x' %}", "has an extends statement"),
        ("{{ x", "can't be read"),
        ("{{ messages | nothing }}", "No filter named 'nothing'"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{% set messages[0]['content'] = 'x' %}", "can't be read"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth"),
        ("{{ 'x' * 10 ** 7 }}", "its text has 10000000 characters"),
        ("{{ messages[0].content }}", "leaves out or changes the"),
        (PLAIN + "{% if messages | length > 100 %}{{ raise_exception('too many') }}{% endif %}",
         "too many"),
        ("x" * 600_000, "has 600000 characters"),
    ],
)  # fmt: skip
def test_a_template_that_no_night_could_use_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bind_template(template, params(), {})


@pytest.mark.parametrize(
    ("template", "bound"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
         "s of processor time"),
        ("{{ 'x' * 10 ** 10 }}", "1 GB of memory"),
        ("{% if messages | length > 9 %}{% for i in range(99999) %}{% for j in range(99999) %}"
         "{% endfor %}{% endfor %}{% endif %}" + PLAIN, "s of processor time"),
    ],
)  # fmt: skip
def test_a_template_that_runs_away_is_ended(
    template: str, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_rendering, "PROCESSOR_SECONDS", 2)
    with pytest.raises(ConfigError, match=f"needs more than .*{bound}"):
        bind_template(template, params(), {})
