"""What the tests of whole nights share: a clone without one, and one night for all of them."""

from pathlib import Path

import pytest

from tests.builders.clones import BuiltClone, made_once
from tests.builders.prefect_server import copy_migrated_store
from tests.fingerprint.clone import Clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own files in a git repository of their own, and Prefect's empty store."""
    root = Clone.make(Path(), tmp_path_factory.mktemp("clone") / "checkout").root
    copy_migrated_store(tmp_path_factory, root / ".nightloom" / "prefect")
    return root


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltClone:
    """A clone after its first night, the same for all of xdist's workers: read it, or copy it."""
    return BuiltClone(made_once(tmp_path_factory, "built", BuiltClone.make))


@pytest.fixture(scope="module")
def after_a_night(built: BuiltClone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, for the tests of one file to change."""
    return built.copy(tmp_path_factory.mktemp("copy") / "checkout")
