"""A tiny embedder that was trained and kept, once for all tests of the stage."""

from pathlib import Path
from typing import Any

import pytest

from tests.builders.retriever import LEARNED, retriever_params, train_into


@pytest.fixture(scope="package")
def learned(
    tiny: Any, prompting: Any, compute: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder in which the stage trained the tiny embedder and kept it."""
    root = tmp_path_factory.mktemp("learned")
    train_into(root, retriever_params(prompting, compute, **LEARNED), tiny)
    return root
