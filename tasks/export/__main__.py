"""Write one model of a release bundle in another form, and read it back before it counts."""

import argparse
import json
import logging
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from tasks.answering.golden import GoldenPrompts, check_golden_model
from tasks.answering.loading import load_served
from tasks.answering.release_bundle import BASE, BundleSettings
from tasks.export.families import check_architecture
from tasks.export.formats import Format
from tasks.export.gguf_writing import Description, write_gguf
from tasks.export.measurement import Records, measure, write_costs
from tasks.export.verification import (
    Chats,
    Prompts,
    ReadBack,
    read_back_folder,
    read_back_gguf,
)
from tasks.generation.greedy_decoding import list_stops
from tasks.models.loading import LanguageModel, prepare_device
from tasks.models.manifest import ModelManifest
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.schema import ServedModel
from tasks.stage.errors import ConfigError, GateError, NightloomError
from tasks.stage.outputs import MANIFEST, RESTORE, file_sha256, output_folders, verified

EXPORT_FILE = "export.json"
_CARD = "README.md"
_EXIT_FAILED, _EXIT_REFUSED = 1, 3


@dataclass(frozen=True)
class Export:
    """What is asked for."""

    bundle: Path
    store: Path
    model: ServedModel
    form: Format
    target: Path
    name: str
    measured: Records | None


def export(asked: Export) -> ReadBack:
    """Return how what was written compares with the model; the folder then stands at
    `asked.target`.

    Raises:
        ConfigError: the folder is not empty, the form can't hold the model, or the model no longer
            asks and answers its golden prompts as it was recorded.
        DataError: a file of the bundle or of its base is missing or changed.
        GateError: what was written reads back as another model.
    """
    check_empty(asked.target)
    settings = BundleSettings.read(asked.bundle)
    verified(asked.bundle, remedy=RESTORE)
    base = ModelManifest.read(asked.bundle / BASE)
    base.verified_folder(asked.store)
    golden = GoldenPrompts.read(asked.bundle).models[asked.model]
    form = settings.models.numeric_form
    device = prepare_device(settings.compute)
    language_model = load_served(
        asked.bundle, asked.store, asked.model, numeric_form=form, device=device
    )
    template = read_prompt_bundle(asked.bundle / asked.model / PROMPT, language_model.tokenizer)
    batch_size = settings.compute.generation_batch
    check_golden_model(asked.bundle, asked.model, language_model, template, batch_size)
    if asked.measured is not None:
        check_architecture(language_model.model.config)
    with output_folders(asked.target) as (folder,):
        prompts = [item.prompt_ids for item in golden]
        chats = template.chats([item.prompt for item in golden])
        found = _write(folder, asked, language_model, base, prompts, chats)
        shutil.copytree(asked.bundle / asked.model / PROMPT, folder / PROMPT)
        shutil.copyfile(asked.bundle / _CARD, folder / _CARD)
        del language_model
        if asked.measured is not None:
            costs = measure(asked.bundle, asked.store, asked.model, asked.measured)
            write_costs(folder, costs)
        told = {
            "name": asked.name,
            "model": asked.model,
            "format": asked.form,
            "bundle_sha256": file_sha256(asked.bundle / MANIFEST),
            "base": {"source": base.source, "revision": base.revision, "sha256": base.digest},
            "numeric_form": form,
            "read_back": asdict(found),
        }
        (folder / EXPORT_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return found


def check_empty(target: Path) -> None:
    """Check that a folder can be made, or is there and empty.

    Raises:
        ConfigError: there is something in it, or it is a file.
    """
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise ConfigError(
            f"{target} is there and not an empty folder; an export replaces nothing",
            "name a folder that is not there yet with --to",
        )


def _write(
    folder: Path,
    asked: Export,
    language_model: LanguageModel,
    base: ModelManifest,
    prompts: Prompts,
    chats: Chats,
) -> ReadBack:
    """Return how what is then in the folder compares with the model."""
    if asked.form is Format.safetensors:
        list_stops(language_model.model, language_model.tokenizer)
        language_model.model.save_pretrained(folder)
        language_model.tokenizer.save_pretrained(folder)
        return read_back_folder(folder, language_model, prompts)
    path = folder / f"{asked.name}-{asked.form.removeprefix('gguf-')}.gguf"
    described = Description(asked.name, base.license, base.name)
    write_gguf(path, language_model, asked.form, described)
    return read_back_gguf(path, language_model, asked.form, prompts, chats)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the folder written, 1 or 3 (a gate) with a reason on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    logging.getLogger("gguf").setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line at each int8 product
    measured = None
    if options.evaluation_report is not None:
        measured = Records(options.curated, options.evaluation_report, options.records)
    asked = Export(
        options.bundle, options.store, options.model, Format(options.format), options.to,
        options.name, measured,
    )  # fmt: skip
    try:
        found = export(asked)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return _EXIT_REFUSED if isinstance(error, GateError) else _EXIT_FAILED
    print(json.dumps(asdict(found) | {"folder": str(options.to), "format": options.format}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.export", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="the release bundle's folder")
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    parser.add_argument("--model", choices=get_args(ServedModel), required=True)
    parser.add_argument("--format", choices=list(Format), required=True)
    parser.add_argument("--to", type=Path, required=True, help="(written) a new or empty folder")
    parser.add_argument("--name", required=True, help="what the model is called in the files")
    measured = parser.add_argument_group("what quantisation cost (all three, or none)")
    measured.add_argument("--evaluation_report", type=Path, help="whose records are asked")
    measured.add_argument("--curated", type=Path, help="the data set that holds them")
    measured.add_argument("--records", type=int, default=100, help="at most so many")
    return parser


if __name__ == "__main__":
    sys.exit(main())
