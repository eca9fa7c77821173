"""Language models in memory: the base in its numeric form, with an adapter, or a student."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from tasks.models.hardware import warn_of_slow_dtype
from tasks.models.manifest import ModelManifest
from tasks.models.quantization import (
    compute_in,
    hold_dequantized,
    round_experts,
    round_weights,
)
from tasks.models.store import WEIGHTS, check_folder, check_weights
from tasks.models.template_binding import read_folder_template, reads_clock
from tasks.records.text import text_sha256
from tasks.stage.errors import ConfigError, DeviceError
from tasks.stage.outputs import file_sha256, verified
from tasks.stage.params import ComputeParams

LOGGER = logging.getLogger(__name__)
ADAPTER_WEIGHTS = "adapter_model.safetensors"
STUDENT_WEIGHTS = "model.safetensors"
BASE_DIGEST_FILE = "base.json"
# OMP_NUM_THREADS, or one a physical core; asked before anything sets it.
_TORCHS_THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class LanguageModel:
    """A causal model ready to answer, its tokenizer, and a digest of what made it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        return self.model.device


def prepare_device(compute: ComputeParams) -> torch.device:
    """Return the device to work on; sets torch's thread count for this process.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    torch.set_num_threads(compute.threads or _TORCHS_THREADS)
    disable_progress_bar()
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "params/compute.yaml asks for device cuda, and torch sees none",
            "install a CUDA build of torch and its driver, or set device: auto",
        )
    if compute.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # A training that was killed is to end in the same bytes; what has no such kernel warns.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder.

    Raises:
        ConfigError: it has no chat template or no end-of-sequence token, or its chat template reads
            the clock.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer in {folder} has no chat template or no end-of-sequence token, so a "
            "question cannot be told from its answer",
            "use an instruction-tuned base, or add chat_template.jinja to the model folder",
        )
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = read_folder_template(folder)
    if reads_clock(str(tokenizer.chat_template)):
        raise ConfigError(
            f"the chat template in {folder} asks for today's date; tomorrow the model would be "
            "asked otherwise than it was trained",
            "name the folder under models.base, whose template.clock is then told as the date",
        )
    return tokenizer


def load_base(
    manifest: Path, store: Path, *, numeric_form: str, device: torch.device
) -> LanguageModel:
    """Return the base model in float32, its decoder's linear weights in the given numeric form."""
    description = ModelManifest.read(manifest)
    folder = description.folder(store)
    model = load_model(folder, device)
    if numeric_form != "float":
        round_weights(model, numeric_form)
    return LanguageModel(model, load_tokenizer(folder), description.digest)


def load_adapted(
    manifest: Path,
    store: Path,
    adapter: Path,
    *,
    numeric_form: str,
    device: torch.device,
    dtype: str = "float32",
) -> LanguageModel:
    """Return the base in its numeric form with an adapter merged into it, or all weights replaced.

    It computes in `dtype`; where the device is slow in that, the log says so.

    Raises:
        ConfigError: the adapter was made for another base, or its weights are not this base's.
        DataError: a file of the adapter is missing or changed.
    """
    description = ModelManifest.read(manifest)
    check_adapter(adapter, description.digest)
    if not (adapter / ADAPTER_WEIGHTS).exists():
        model, weights = load_model(adapter, device), adapter / STUDENT_WEIGHTS
        tokenizer = load_tokenizer(description.folder(store))
        return LanguageModel(_computing_in(model, dtype), tokenizer, file_sha256(weights))
    base = load_base(manifest, store, numeric_form=numeric_form, device=device)
    merged: PreTrainedModel = adapted_model(base.model, adapter).merge_and_unload().eval()
    digest = file_sha256(adapter / ADAPTER_WEIGHTS)
    return LanguageModel(_computing_in(merged, dtype), base.tokenizer, digest)


def _computing_in(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    warn_of_slow_dtype(dtype, model.device)
    converted: Any = model.to(getattr(torch, dtype))
    return cast(PreTrainedModel, converted)


def with_adapter(base: LanguageModel, adapter: Path) -> LanguageModel:
    """Return the same model with an adapter beside its weights, as training has it, not merged.

    Raises:
        ConfigError: the adapter was made for another base, or its weights are not this base's.
        DataError: a file of the adapter is missing or changed.
    """
    check_adapter(adapter, base.digest)
    model: PreTrainedModel = adapted_model(base.model, adapter).get_base_model().eval()
    return LanguageModel(model, base.tokenizer, file_sha256(adapter / ADAPTER_WEIGHTS))


def check_adapter(adapter: Path, base_digest: str) -> None:
    """Check that an adapter folder is whole and was trained on the base with this digest.

    Raises:
        ConfigError: it was made for another base, or its weights can't be used.
        DataError: a file is missing or changed.
    """
    made_for = ModelManifest.read(verified(adapter) / BASE_DIGEST_FILE).digest
    if made_for != base_digest:
        raise ConfigError(
            f"{adapter} was trained on the base {made_for[:12]}; the base in use is "
            f"{base_digest[:12]}, on which its weights mean nothing",
            "run the night again, or restore the base in params/models.yaml",
        )
    check_weights(adapter)


def load_student(folder: Path, *, device: torch.device) -> LanguageModel:
    """Return a student: a plain Hugging Face folder, computed in float32."""
    verified(folder)
    model = load_model(folder, device)
    return LanguageModel(model, load_tokenizer(folder), file_sha256(folder / STUDENT_WEIGHTS))


def load_folder(folder: Path, *, device: torch.device) -> LanguageModel:
    """Return a model folder as `save_pretrained` writes it, in float32; no stage of ours made it.

    Raises:
        ConfigError: it is incomplete, brings code of its own, or its weights can't be used.
    """
    check_folder(folder)
    weights = sorted(path for path in folder.rglob(f"*{WEIGHTS}") if path.is_file())
    digest = text_sha256(*map(file_sha256, weights))
    return LanguageModel(load_model(folder, device), load_tokenizer(folder), digest)


def load_for_training(
    manifest: Path,
    store: Path,
    device: torch.device,
    *,
    numeric_form: str,
    dtype: str,
    dequantized: bool,
) -> LanguageModel:
    """Return the base in the numeric form in which it will be served, to be trained on.

    Where the device is slow in `dtype`, in which it computes, the log says so.
    `dequantized` holds a quantised base's weights dequantised: faster, in more memory. In NF4 that
    is the same training; bitsandbytes' int8 layers round activations too, which held ones don't.
    """
    warn_of_slow_dtype(dtype, device)
    computed = getattr(torch, dtype)
    if numeric_form == "float":
        base = load_base(manifest, store, numeric_form="float", device=device)
        base.model.to(computed)
        return base
    base = load_quantized(
        manifest, store, numeric_form=numeric_form, compute_dtype=computed, device=device
    )
    if dequantized:
        hold_dequantized(base.model)
    return base


def trained_form(numeric_form: str, *, dequantized: bool) -> str:
    """Return the numbers that a training sees of its base."""
    rounds = numeric_form == "int8_dequantized" and not dequantized
    return "int8, activations as well" if rounds else numeric_form


def load_quantized(
    manifest: Path,
    store: Path,
    *,
    numeric_form: str,
    compute_dtype: torch.dtype,
    device: torch.device,
) -> LanguageModel:
    """Return the base with its linear weights in NF4 with double quantisation, or in int8, a scale
    a row.

    What is quantised are the float32 weights, so that the numbers are those that are served; all
    else is held, and computed, in `compute_dtype`. Source: Dettmers et al. 2023, arXiv:2305.14314,
    section 3; 2022, arXiv:2208.07339, section 3.
    """
    description = ModelManifest.read(manifest)
    folder = description.folder(store)
    model = quantize_folder(
        folder, numeric_form=numeric_form, compute_dtype=compute_dtype, device=device
    )
    return LanguageModel(model, load_tokenizer(folder), description.digest)


def quantize_folder(
    folder: Path, *, numeric_form: str, compute_dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Return the model of a folder, its linear weights held in bitsandbytes' layers of a form."""
    if numeric_form == "int8_dequantized":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    model = load_model(folder, device, quantization_config=settings)
    round_experts(model, numeric_form)
    compute_in(model, compute_dtype)
    return model


def adapted_model(model: PreTrainedModel, adapter: Path) -> Any:
    """Return a base as peft's model with an adapter in its layers, not merged.

    Raises:
        ConfigError: the adapter lacks weights, has others, or has them in other shapes.
    """
    from tasks.models.peft_library import PeftModel, get_peft_model_state_dict

    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as content:
        given = set(content.keys())
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError) as error:
        raise _misfit(adapter, " ".join(str(error).split())[:300]) from None
    # Else peft asks the hub whether the base has grown new tokens.
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if given != expected:
        odd = sorted(given ^ expected)
        raise _misfit(adapter, f"{len(odd)} weights are on one side alone, such as {odd[0]}")
    return adapted


def _misfit(folder: Path, how: str) -> ConfigError:
    return ConfigError(
        f"the weights in {folder} do not fit what its config describes: {how}",
        "take the folder again from where it was made; its files belong to different models",
    )


def load_model(folder: Path, device: torch.device, **settings: object) -> PreTrainedModel:
    """Return the model of a folder in float32, or as `settings` say, with all of its weights.

    Raises:
        ConfigError: weights are missing or of other shapes than its config describes.
    """
    read: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        device_map={"": device},
        # What is missing or of another shape would else be made up, or told in a page of text.
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **{"dtype": torch.float32} | settings,
    )
    model, found = read
    for how in ("missing_keys", "mismatched_keys"):
        if found[how]:
            raise _misfit(folder, f"{how.replace('_', ' ')}: {sorted(map(str, found[how]))[:3]}")
    loaded: PreTrainedModel = model.eval()
    return loaded
