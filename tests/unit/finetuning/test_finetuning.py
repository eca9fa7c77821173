"""QLoRA's base is what is served, and an adapter's bytes depend on its training alone."""

import json
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from tasks.finetuning.adapter import keep_start, make_trainable, save_trained
from tasks.finetuning.params import FinetuningParams, Params
from tasks.models.loading import (
    LanguageModel,
    check_adapter,
    load_adapted,
    load_base,
    load_for_training,
    trained_form,
)
from tasks.models.manifest import ModelManifest
from tasks.models.quantization import decoder_linears, hold_dequantized
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import build_pack
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_manifest
from tasks.stage.params import read_yaml, validate_params
from tests.unit.conftest import Tiny
from tests.unit.sequences.test_packing import examples

PARAMS = FinetuningParams.model_validate(read_yaml(Path("params/finetuning.yaml")))
CPU = torch.device("cpu")


def loaded(
    tiny: Tiny, form: str = "nf4_dequantized", *, dequantized: bool = False
) -> LanguageModel:
    return load_for_training(
        tiny.base,
        tiny.store,
        CPU,
        numeric_form=form,
        dtype="float32",
        dequantized=dequantized,
    )


def with_method(method: str, **changes: object) -> FinetuningParams:
    return PARAMS.model_copy(update={"method": method} | changes)


def test_a_base_held_dequantised_gives_the_same_losses_and_gradients(tiny: Tiny) -> None:
    found = []
    for dequantized in (False, True):
        base = loaded(tiny, dequantized=dequantized)
        model = make_trainable(base, PARAMS)
        assert dequantized != any(isinstance(part, Linear4bit) for part in model.modules())
        use_packed_attention(base.model)
        loss = summed_cross_entropy(model, build_pack(examples()))
        loss.backward()
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        found.append((loss, [weight.grad for weight in trained]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_served_base_is_the_nf4_base_that_was_trained_on(tiny: Tiny) -> None:
    trained = loaded(tiny).model
    served = load_base(tiny.base, tiny.store, numeric_form="nf4_dequantized", device=CPU).model
    expected = dict(decoder_linears(served))
    linears = decoder_linears(trained)
    assert len(linears) == len(expected) == 14
    for name, linear in linears:
        weight = dequantize_4bit(linear.weight.data, linear.weight.quant_state)
        assert torch.equal(weight, expected[name].weight.data), name


def test_only_the_adapter_is_trained(tiny: Tiny) -> None:
    model = make_trainable(loaded(tiny), PARAMS)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 14
    assert all("lora_" in name for name in trained)


def test_an_adapter_folder_names_no_machine_and_has_sorted_targets(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = make_trainable(loaded(tiny), PARAMS)
    save_trained(model, PARAMS, tiny.base, tmp_path, tmp_path / "start")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert str(tiny.store) not in (tmp_path / "adapter_config.json").read_text()


def test_an_adapter_of_another_base_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = make_trainable(loaded(tiny), PARAMS)
    save_trained(model, PARAMS, tiny.base, tmp_path, tmp_path / "start")
    write_manifest(tmp_path)
    check_adapter(tmp_path, ModelManifest.read(tiny.base).digest)
    with pytest.raises(ConfigError, match="was trained on the base"):
        check_adapter(tmp_path, "0" * 64)


METHODS = [
    ("qlora", "nf4_dequantized", {}),
    ("qlora", "int8_dequantized", {}),
    ("lora", "float", {}),
    ("lora", "float", {"init": "gaussian"}),
    ("lora", "float", {"init": "pissa"}),
    ("dora", "nf4_dequantized", {}),
    ("dora", "float", {}),
    ("rslora", "int8_dequantized", {}),
    ("rslora", "float", {"init": "pissa"}),
    ("full", "float", {}),
]


@pytest.mark.parametrize(("method", "form", "changes"), METHODS)
def test_what_is_served_is_what_was_trained(
    method: str, form: str, changes: dict[str, object], tiny: Tiny, tmp_path: Path
) -> None:
    params = with_method(method, **changes)
    base = loaded(tiny, form, dequantized=True)
    model = make_trainable(base, params)
    keep_start(model, params, tmp_path / "start")
    use_packed_attention(base.model)
    pack = build_pack(examples())
    before = summed_cross_entropy(model, pack)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(3):
        summed_cross_entropy(model, pack).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = summed_cross_entropy(model, pack)
    assert after < before
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_trained(model, params, tiny.base, folder, tmp_path / "start")
    write_manifest(folder)
    served = load_adapted(tiny.base, tiny.store, folder, numeric_form=form, device=CPU)
    use_packed_attention(served.model)
    found = summed_cross_entropy(served.model, pack)
    torch.testing.assert_close(found, after, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("form", ["nf4_dequantized", "int8_dequantized"])
@pytest.mark.parametrize("dequantized", [True, False])
def test_a_base_in_bfloat16_has_the_served_weights_rounded_and_learns(
    form: str, dequantized: bool, tiny: Tiny
) -> None:
    params = with_method("qlora", dtype="bfloat16")
    base = load_for_training(
        tiny.base,
        tiny.store,
        CPU,
        numeric_form=form,
        dtype="bfloat16",
        dequantized=dequantized,
    )
    served = load_base(tiny.base, tiny.store, numeric_form=form, device=CPU).model
    if not dequantized:
        hold_dequantized(base.model)
    expected = dict(decoder_linears(served))
    for name, linear in decoder_linears(base.model):
        assert torch.equal(linear.weight.data, expected[name].weight.data.bfloat16()), name
    model = make_trainable(base, params)
    use_packed_attention(base.model)
    loss = summed_cross_entropy(model, build_pack(examples()))
    loss.backward()
    use_packed_attention(served)
    torch.testing.assert_close(
        loss, summed_cross_entropy(served, build_pack(examples())), rtol=2e-2, atol=0
    )


def test_the_numbers_of_a_base_name_what_is_rounded() -> None:
    assert trained_form("nf4_dequantized", dequantized=False) == "nf4_dequantized"
    assert trained_form("int8_dequantized", dequantized=True) == "int8_dequantized"
    assert "activations" in trained_form("int8_dequantized", dequantized=False)


def test_an_int8_base_trains_in_a_quarter_of_the_weights(tiny: Tiny) -> None:
    base = loaded(tiny, "int8_dequantized")
    kinds = {type(layer).__name__ for _, layer in decoder_linears(base.model)}
    assert kinds == {"Linear8bitLt"}
    model = make_trainable(base, with_method("qlora"))
    use_packed_attention(base.model)
    summed_cross_entropy(model, build_pack(examples())).backward()
    gradients = [w.grad for w in model.parameters() if w.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("method", "form", "changes", "said"),
    [
        ("qlora", "float", {}, "needs a quantised base"),
        ("lora", "nf4_dequantized", {}, "needs a float base"),
        ("full", "int8_dequantized", {}, "needs a float base"),
        ("dora", "float", {"init": "pissa"}, "init pissa needs"),
        ("rslora", "nf4_dequantized", {"init": "pissa"}, "init pissa needs"),
    ],
)
def test_a_method_that_does_not_go_with_the_base_is_refused(
    method: str, form: str, changes: dict[str, object], said: str
) -> None:
    files = [Path(f"params/{name}.yaml") for name in ("finetuning", "models", "compute")]
    content = {path.stem: read_yaml(path) for path in files}
    content["finetuning"] |= {"method": method} | changes
    content["models"]["numeric_form"] = form
    with pytest.raises(ConfigError, match=said):
        validate_params(Params, content, files)


def test_targets_that_the_base_does_not_have_are_refused_with_those_it_has(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"names query.*are down_proj, gate_proj"):
        make_trainable(loaded(tiny), with_method("qlora", targets=["query", "q_proj"]))
    model = make_trainable(loaded(tiny), with_method("qlora", targets=["q_proj"]))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("q_proj" in name for name in trained)
