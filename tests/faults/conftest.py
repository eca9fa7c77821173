"""The tiny models and data of the unit tests, and the process that is forked for each stage."""

from collections.abc import Iterator

import pytest

from tests.faults.stages import StageForks
from tests.unit.conftest import empty_store, prompting, reigned_store, tiny, tokens

__all__ = ["empty_store", "forks", "prompting", "reigned_store", "tiny", "tokens"]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StageForks]:
    with StageForks(tmp_path_factory.mktemp("forks") / "log") as forks:
        yield forks
