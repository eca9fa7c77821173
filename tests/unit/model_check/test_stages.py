"""What the check finds well, the stages can use: families from rows to answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.distillation import __main__ as distillation
from tasks.finetuning import __main__ as finetuning
from tasks.generation.greedy_decoding import generate, stop_tokens
from tasks.models.loading import load_adapted, load_student
from tasks.models.store import convert
from tasks.prompting.chat_encoding import encode_answers
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.sequences.examples import read_examples
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, read_yaml
from tests.builders.families import FAMILIES
from tests.unit.conftest import Tiny
from tests.unit.distillation.test_stage import LITTLE, QUICK
from tests.unit.model_check.conftest import source_of
from tests.unit.tokenization.test_tokenization import tokenize

CPU = torch.device("cpu")
# One of each kind of template, tokenizer and layer; those without a layer to fit are not fitted.
FITTED = {"llama3": 1000, "qwen3": 1000, "gemma2": 1000, "phi3": 1000, "mistral": 1000,
          "gpt_neox": 1000, "gpt2": 0, "mixtral": 0}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FITTED)
def test_a_family_is_trained_distilled_and_answers_as_it_learned(
    name: str,
    tiny: Tiny,
    prompting: PromptingParams,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path: Path,
) -> None:
    family, made = FAMILIES[name], Tiny(tmp_path)
    folder = family.write(tmp_path / "source")
    template = source_of(folder, family).template
    convert(str(folder), None, "causal_lm", made.store, template).write(made.base)
    # The tiny data and embedder, whose tokens are another matter.
    (made.root / "embedder.json").write_bytes(tiny.embedder.read_bytes())
    for place in tiny.store.iterdir():
        (made.store / place.name).symlink_to(place)
    tokens = tokenize(tmp_path / "tokens", made, prompting, tiny.curated, max_tokens=1024).tokens
    shared = {"models": models, "compute": compute.model_copy(update={"micro_batch_tokens": 1024})}
    little = read_yaml(Path("params/finetuning.yaml")) | LITTLE | {"validation_examples": 4}
    finetuning.run(
        finetuning.Params.model_validate(shared | {"finetuning": little | {"rank": 4}}),
        finetuning.Paths(
            tokens=tokens, base=made.base, model_store=made.store, scratch=tmp_path / "scratch",
            adapter=made.adapter, finetuning_report=tmp_path / "finetuning",
        ),
    )  # fmt: skip
    content = read_yaml(Path("params/distillation.yaml")) | QUICK | LITTLE
    content |= {"calibration_tokens": FITTED[name]}
    distillation.run(
        distillation.Params.model_validate(
            shared | {"prompting": prompting, "distillation": content}
        ),
        distillation.Paths(
            tokens=tokens, base=made.base, student_base=made.base, model_store=made.store,
            adapter=made.adapter, scratch=tmp_path / "scratch", students=tmp_path / "students",
            distillation_report=tmp_path / "distillation",
        ),
    )  # fmt: skip
    shares = json.loads((made.adapter / "training.json").read_text())["shares"]
    assert min(shares["quantised"], shares["adapted"]) > 0.9
    adapted = load_adapted(
        made.base, made.store, made.adapter, numeric_form=models.numeric_form, device=CPU
    )
    student = load_student(tmp_path / "students" / "1" / "student", device=CPU)
    examples = read_examples(tokens / "train.parquet")
    for model, place in ((adapted, made.adapter), (student, tmp_path / "students/1/student")):
        end = model.tokenizer.convert_tokens_to_ids(family.end)
        assert {example.token_ids[-1] for example in examples} == {end}
        assert end in stop_tokens(model)
        template = read_prompt_bundle(place / PROMPT, model.tokenizer)
        assert template.text
        prompts = [example.token_ids[: example.prompt_length] for example in examples[:3]]
        generate(model, prompts, max_new_tokens=4, batch_size=2)
    listed: Any = student.model.generation_config.eos_token_id
    assert end in (listed if isinstance(listed, list) else [listed])
    learned = {tuple(example.token_ids[example.prompt_length :]) for example in examples}
    assert learned <= {tuple(ids) for ids in encode_answers(
        adapted.tokenizer, ["Return it.", "I don't know."]
    )}  # fmt: skip
