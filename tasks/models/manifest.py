"""The manifest of a model in the store: the small file that stages depend on."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tasks.records.text import text_sha256
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import file_sha256, write_atomically
from tasks.stage.params import Pooling


@dataclass(frozen=True)
class ModelManifest:
    """What a base model or embedder is.

    `digest` names the folder of the weights in the model store; `files` maps each to its SHA-256.
    `template` is what its chat template was bound to (`tasks.models.template_binding`), None where
    it is as its makers wrote it.
    The prompts and the pooling are those that params give an embedder, None where its files decide.
    `adapter` maps each file of what an embedder learned of the data to its SHA-256; they lie beside
    the manifest (`tasks.embedding.adapter`), and it is None where the embedder is the base one.
    `requirement` is the package, with its version, whose code computes with the model.
    """

    name: str
    kind: str
    source: str
    revision: str | None
    license: str
    digest: str
    files: dict[str, str]
    query_prompt: str | None = None
    passage_prompt: str | None = None
    pooling: Pooling | None = None
    requirement: str | None = None
    template: dict[str, Any] | None = None
    adapter: dict[str, str] | None = None

    @property
    def identity(self) -> str:
        """Return the hash that two embedders share whose vectors are the same."""
        given = (self.query_prompt, self.passage_prompt, self.pooling)
        learned = [] if self.adapter is None else sorted(self.adapter.items())
        if all(value is None for value in given) and not learned:
            return self.digest
        return text_sha256(self.digest, *map(repr, given), *map(repr, learned))

    @classmethod
    def read(cls, path: Path) -> "ModelManifest":
        """Return the manifest in a file that `convert` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def read_optional(cls, path: Path) -> "ModelManifest | None":
        """Return the manifest in a file, None where the file stands for no model (`null`)."""
        return None if json.loads(path.read_text(encoding="utf-8")) is None else cls.read(path)

    def write(self, path: Path) -> None:
        """Write the manifest, atomically and always in the same bytes."""
        optional = {field.name for field in fields(self) if field.default is None}
        named = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name not in optional
        }
        write_atomically(path, json.dumps(named, indent=1, sort_keys=True) + "\n")

    def folder(self, store: Path) -> Path:
        """Return where the store keeps the weights.

        Raises:
            ConfigError: the store does not hold them.
        """
        folder = store / self.digest
        if not folder.is_dir():
            raise ConfigError(
                f"the weights of {self.source} ({self.digest[:12]}) are not in {store}",
                "run `nightloom run`, which resolves the models of params/models.yaml first",
            )
        return folder

    def verified_folder(self, store: Path) -> Path:
        """Return where the store keeps the weights, once every file has the hash that this manifest
        names.

        Raises:
            ConfigError: the store does not hold them.
            DataError: a file is missing or changed.
        """
        folder = self.folder(store)
        odd = [
            name
            for name, digest in self.files.items()
            if not (folder / name).is_file() or file_sha256(folder / name) != digest
        ]
        if odd:
            raise DataError(
                f"{folder} does not hold {self.name} as it was recorded: missing or changed: "
                f"{', '.join(odd[:5])}. Every answer and score rests on these weights",
                f"move {folder} aside, and keep it until the weights are back: `nightloom run` "
                f"makes them again from {self.source} where params/models.yaml names that",
            )
        return folder
