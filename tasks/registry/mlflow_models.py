"""A bundle as MLflow models, each loaded and asked once.

A child runs it (`python -m tasks.registry.mlflow_models`), so it imports no Prefect.
"""

import argparse
import json
import os
import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path

import mlflow.pyfunc

from tasks.records.schema import ServedModel
from tasks.registry.versions import MODELS
from tasks.stage.errors import ConfigError, NightloomError
from tasks.stage.outputs import MANIFEST, write_manifest

_REQUIREMENTS = (
    "mlflow", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors",
    "bm25s", "numpy", "pydantic", "jinja2", "pyyaml",
)  # fmt: skip

_EXAMPLE = {"input": [{"role": "user", "content": "What does json.dumps do?"}]}


def save_model(bundle: Path, model: ServedModel, target: Path, store: Path) -> None:
    """Write a bundle, without the other model's weights, as an MLflow model that answers."""
    other = MODELS[1 - MODELS.index(model)]
    slim = target.with_name(f"{target.name}-bundle")
    shutil.copytree(bundle, slim, ignore=shutil.ignore_patterns(other), copy_function=os.link)
    (slim / MANIFEST).unlink()  # a link to the bundle's own, which must not change
    write_manifest(slim)
    # MLflow imports it before it copies the artifacts; beside it, Python would leave its bytecode.
    code = target.with_name(f"{target.name}-code")
    code.mkdir()
    shutil.copyfile(bundle / "agent.py", code / "agent.py")
    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=str(code / "agent.py"),
        artifacts={"bundle": str(slim)},
        code_paths=["tasks"],
        model_config={"model": model, "model_store": str(store)},
        input_example=_EXAMPLE,
        pip_requirements=[
            *(f"{name}=={installed(name)}" for name in _REQUIREMENTS),
            *embedder_requirements(bundle),
        ],
    )


def embedder_requirements(bundle: Path) -> list[str]:
    """Return the package whose own code computes the bundle's vectors, if there is one."""
    path = bundle / "embedder.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [found["requirement"]] if found.get("requirement") else []


def main(arguments: list[str] | None = None) -> int:
    """Write the models; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tasks.registry.mlflow_models")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--models", choices=MODELS, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="(written) one folder a model")
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    options = parser.parse_args(arguments)
    if not Path("tasks/answering/mlflow_agent.py").exists():
        missing = ConfigError(
            "tasks/answering/mlflow_agent.py is missing here", "run it in the project"
        )
        print(f"ConfigError: {missing}", file=sys.stderr)
        return 1
    try:
        for model in options.models:
            save_model(options.bundle, model, options.folder / model, options.store)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
