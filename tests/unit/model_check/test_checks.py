"""What the check finds of each family, and what it refuses that a stage would meet."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tasks.model_check.__main__ import main
from tasks.model_check.checks import check_base
from tasks.model_check.findings import CheckRecord, Finding, refuse
from tasks.model_check.sources import open_source
from tasks.models.manifest import ModelManifest
from tasks.stage.errors import ConfigError
from tests.builders.families import FAMILIES, OPENS_THINKING, Family
from tests.unit.model_check.conftest import Check, night_params, source_of

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def findings(folder: Path, family: Family, **changes: Any) -> dict[str, Finding]:
    with open_source(source_of(folder, family), folder.parent / "store") as view:
        found = list(check_base(view, night_params(**changes)))
    return {finding.name: finding for finding in found}


@EVERY
def test_prompts_ends_and_rows_of_every_family_are_found_well(
    family: Family, checked: Check
) -> None:
    found = checked(family)
    for name in ("shape", "chat template", "end of turn", "prompts", "vocabulary", "memory"):
        assert found[name].fault is None, found[name]
    assert found["end of turn"].found.startswith(family.end)
    assert ("clock 2025-01-02" in found["chat template"].found) == family.reads_clock
    assert found["packed"].found == "exactly"
    assert found["answers"].found == "together"


def test_the_families_that_llama_cpp_runs_are_told(checked: Check) -> None:
    found = {name: checked(family)["GGUF"].found for name, family in FAMILIES.items()}
    exported = {name for name, said in found.items() if said == "yes, and safetensors"}
    assert exported == {
        "llama3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mistral", "llama2", "solar"
    }  # fmt: skip
    assert "the architecture mixtral" in found["mixtral"]
    assert "no token of its own begins a chat" in found["zephyr"]


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_hidden_layers"])
def test_a_config_that_lies_about_its_weights_is_refused(name: str, tmp_path: Path) -> None:
    family = FAMILIES["qwen2"]
    folder = family.write(tmp_path / "model")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[name] *= 2
    config["layer_types"] = None
    path.write_text(json.dumps(config))
    fault = str(findings(folder, family)["shape"].fault)
    assert "do not fit what its config describes" in fault


def test_a_token_without_a_row_is_refused(tmp_path: Path) -> None:
    family = FAMILIES["llama3"]
    folder = family.write(tmp_path / "model")
    tokenizer = family.tokenizer()
    names = [AddedToken(f"<|extra_{number}|>", special=True) for number in range(9)]
    tokenizer.add_tokens(names)  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    found = findings(folder, family)["vocabulary"]
    assert "has 6 tokens without a row in the embedding of 488" in str(found.fault)
    assert "<|extra_3|>" in str(found.fault)


def test_a_base_that_opens_a_thought_is_refused(tmp_path: Path) -> None:
    found = findings(OPENS_THINKING.write(tmp_path / "model"), OPENS_THINKING)
    assert "<think>" in str(found["end of turn"].fault)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("config.json", '{"model_type": "no_such_model"}', "can't build the model"),
        ("config.json", "[1]", "holds no JSON object"),
        ("config.json", "{", "holds no JSON object"),
        ("tokenizer.json", "{}", "can't be loaded"),
        ("chat_template.jinja", "{{ messages.append(1) }}", "access to attribute 'append'"),
        ("chat_template.jinja", "{% include 'a' %}", "has an include statement"),
        ("model.safetensors", "cut", "safetensors"),
    ],
)
def test_a_broken_file_is_named(name: str, content: str, fault: str, tmp_path: Path) -> None:
    family = FAMILIES["qwen2"]
    folder = family.write(tmp_path / "model")
    (folder / name).write_text(content)
    with (
        pytest.raises(ConfigError, match=fault),
        open_source(source_of(folder, family), tmp_path / "store") as view,
    ):
        refuse(check_base(view, night_params()))


def test_a_target_that_the_base_does_not_have_is_refused(tmp_path: Path) -> None:
    family = FAMILIES["phi3"]
    found = findings(family.write(tmp_path / "m"), family, finetuning__targets=["q_proj"])
    assert "linear layers are down_proj, gate_up_proj, o_proj, qkv_proj" in str(
        found["adapted"].fault
    )


def test_a_student_of_too_many_layers_is_refused(tmp_path: Path) -> None:
    family = FAMILIES["qwen2"]
    found = findings(family.write(tmp_path / "m"), family, distillation__students=[2])
    assert "needs fewer than its teacher" in str(found["students"].fault)


def run(folder: Path, family: Family, *words: str) -> int:
    files = [f"params/{name}.yaml" for name in ("models", "finetuning", "distillation", "compute")]
    source = source_of(folder, family).model_dump_json()
    given = ["--params", *files, "--source", source, "--store", str(folder.parent / "store")]
    return main([*given, *words])


def test_a_base_is_resolved_once_it_is_found_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.model_check.__main__.load_params", lambda *_: night_params())
    family, manifest = FAMILIES["llama3"], tmp_path / "base.json"
    folder = family.write(tmp_path / "model")
    words = ("--manifest", str(manifest), "--key", "k")
    assert run(folder, family, *words) == 0
    made = ModelManifest.read(manifest)
    assert made.template == {"clock": "2025-01-02"}
    known = CheckRecord.beside(manifest)
    assert known is not None
    assert (known.key, known.digest) == ("k", made.digest)
    assert {finding.name for finding in known.findings} >= {"trained", "pruned", "memory"}
    before = manifest.stat().st_mtime_ns
    assert run(folder, family, *words[:-1], "other") == 0
    assert manifest.stat().st_mtime_ns == before  # tried again, and not copied again


def test_a_refused_base_leaves_nothing_in_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.model_check.__main__.load_params", lambda *_: night_params())
    folder, manifest = OPENS_THINKING.write(tmp_path / "model"), tmp_path / "base.json"
    assert run(folder, OPENS_THINKING, "--manifest", str(manifest)) == 1
    assert not manifest.exists()
    assert not list(tmp_path.glob("store/*"))
    said = capsys.readouterr()
    assert "ConfigError: the base's chat template does not say where an answer begins" in said.err
    assert "what to do: " in said.err


def test_several_faults_are_told_at_once() -> None:
    given = [Finding("a", "x", "one", "do this"), Finding("b", "y"), Finding("c", "z", "two", "do")]
    with pytest.raises(ConfigError, match=r"2 faults.*\n  a: one\n  c: two") as caught:
        refuse(given)
    assert caught.value.remedy == "do this; do"


# Their layers end in no linear map of the usual name: of experts, or with rows for columns.
UNFITTED = ("gpt2", "mixtral", "qwen3_moe")


@EVERY
def test_nearly_all_of_every_family_is_quantised_and_adapted_and_served_as_trained(
    family: Family, checked: Check
) -> None:
    found = checked(family)
    for name in ("quantised", "adapted"):
        share = re.search(r"([\d.]+)% of the decoder's weights", found[name].found)
        assert share is not None
        assert float(share[1]) > 90, found[name]
    for name in ("trained", "served as trained"):
        assert found[name].fault is None, found[name]


@EVERY
def test_layers_can_be_left_out_of_every_family_or_the_check_says_what_to_set(
    family: Family, checked: Check, tmp_path: Path
) -> None:
    found = checked(family)["pruned"]
    assert (found.fault is not None) == (family.name in UNFITTED), found
    if found.fault is not None:
        assert "distillation.calibration_tokens: 0" in str(found.remedy)
        folder = family.write(tmp_path / "model")
        unfitted = findings(folder, family, distillation__calibration_tokens=0)
        assert unfitted["pruned"].fault is None


@pytest.mark.parametrize("form", ["float", "int8_dequantized"])
@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt2", "mixtral"])
def test_other_forms_are_served_as_trained_too(name: str, form: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    changes = {"models__numeric_form": form, "finetuning__method": "lora"}
    if form != "float":
        changes["finetuning__method"] = "qlora"
    found = findings(family.write(tmp_path / "model"), family, **changes)
    for part in ("trained", "served as trained"):
        assert found[part].fault is None, found[part]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finetuning__dropout": 0.1}, "a dropout"),
        ({"finetuning__method": "dora"}, "method dora"),
        (
            {
                "finetuning__init": "pissa",
                "finetuning__method": "lora",
                "models__numeric_form": "float",
            },
            "init pissa",
        ),
    ],
)
def test_a_method_that_can_t_train_experts_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    family = FAMILIES["mixtral"]
    found = findings(family.write(tmp_path / "model"), family, **changes)["trained"]
    assert f"can't be adapted with {said}" in str(found.fault)
    assert "params/finetuning.yaml" in str(found.remedy)
