"""A source's small files, and its weights where they lie, for a look before anything is copied."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.models.manifest import ModelManifest
from tasks.models.store import KEPT, WEIGHTS, check_files, convert, fetch_hub
from tasks.models.template_binding import bind_folder
from tasks.stage.errors import ConfigError
from tasks.stage.params import BaseSource


@contextmanager
def open_source(source: BaseSource, store: Path) -> Iterator[Path]:
    """Yield a folder with the files of a source, its chat template bound.

    Weights of a local folder are linked to, those of a hub model left out; what a package brings,
    or is made on the spot, goes into the store at once.

    Raises:
        ConfigError: the source can't be had, is not safe to load, or its chat template can't be
            rendered.
    """
    scheme, _, name = source.source.partition(":")
    if scheme in ("embedded", "tiny"):
        manifest = convert(source.source, source.revision, "causal_lm", store, source.template)
        yield manifest.folder(store)
        return
    with TemporaryDirectory(prefix="nightloom-check-") as place:
        view = Path(place) / "model"
        view.mkdir()
        if scheme == "hub":
            fetch_hub(name, source.revision, view, weights=False)
            check_files(view, needs_weights=False)
        else:
            folder = Path(source.source).expanduser().resolve()
            check_files(folder)
            _link(folder, view)
        bind_folder(view, source.template)
        yield view


@contextmanager
def open_resolved(manifest: Path, store: Path) -> Iterator[Path]:
    """Yield the folder of a base that the store holds."""
    yield ModelManifest.read(manifest).folder(store)


def _link(folder: Path, view: Path) -> None:
    """Copy small files and link to weights.

    Raises:
        ConfigError: the folder can't be read.
    """
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix == WEIGHTS:
                (view / path.name).symlink_to(path)
            elif path.is_file() and path.suffix in KEPT:
                shutil.copyfile(path, view / path.name)
    except OSError as error:
        raise ConfigError(
            f"{folder} can't be read: {error}", "name a folder that this user may read"
        ) from None
