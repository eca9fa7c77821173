"""A model source, converted once to safetensors and stored under the hash of its content."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.lm.gguf_reading import unpack_gguf
from tasks.lm.sources import copy_model, fetch_hub, find_embedded
from tasks.records.hashing import text_sha256
from tasks.stage.errors import ConfigError, DataError, NightloomError
from tasks.stage.outputs import file_sha256, folder_files, write_atomically

KINDS = ("causal_lm", "embedder", "reranker")


@dataclass(frozen=True)
class ModelManifest:
    """What a base model or embedder is: the small file that stages depend on.

    `digest` names the folder of the weights in the model store; `files` maps each to its SHA-256.
    """

    name: str
    kind: str
    source: str
    revision: str | None
    license: str
    digest: str
    files: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "ModelManifest":
        """The manifest in a file that `convert` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def read_optional(cls, path: Path) -> "ModelManifest | None":
        """The manifest in a file, None where the file stands for no model (`null`)."""
        return None if json.loads(path.read_text(encoding="utf-8")) is None else cls.read(path)

    def write(self, path: Path) -> None:
        """Write the manifest, atomically and always in the same bytes."""
        write_atomically(path, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    def folder(self, store: Path) -> Path:
        """Where the store keeps the weights.

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
        """Where the store keeps the weights, once every file has the hash that this manifest names.

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


def convert(source: str, revision: str | None, kind: str, store: Path) -> ModelManifest:
    """The manifest of a source, whose weights then lie in `store/DIGEST/`.

    Raises:
        ConfigError: the source can't be had, or is not safe to load.
    """
    store.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".conversion-", dir=store))
    try:
        name, license_name = _materialize(source, revision, kind, temporary)
        files = folder_files(temporary)
        digest = text_sha256(*(part for item in sorted(files.items()) for part in item))
        if not (store / digest).is_dir():
            temporary.rename(store / digest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelManifest(name, kind, source, revision, license_name, digest, files)


def _materialize(source: str, revision: str | None, kind: str, target: Path) -> tuple[str, str]:
    """Name and license of a source whose files are then in `target`."""
    scheme, _, name = source.partition(":")
    if scheme == "embedded":
        model, path = find_embedded(name, kind)
        _unpack(path, target)
        return name, model.license
    if scheme == "tiny":
        from tasks.lm.tiny import make_tiny

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
    """The exit code: 0 with the manifest written, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tasks.lm.conversion", description=__doc__)
    parser.add_argument("--source", required=True, help="embedded:, hub:, tiny:, or a folder")
    parser.add_argument("--revision", help="a hub model's commit")
    parser.add_argument("--kind", required=True, choices=KINDS)
    parser.add_argument("--manifest", type=Path, required=True, help="(written)")
    parser.add_argument("--store", type=Path, required=True, help="(written)")
    options = parser.parse_args(arguments)
    try:
        manifest = convert(options.source, options.revision, options.kind, options.store)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    manifest.write(options.manifest)
    print(f"{manifest.source}: {manifest.digest[:12]} ({len(manifest.files)} files)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
