"""What holds for every test: programs run as they do at a user's; fast tests start none."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest

# Where it is set, bytecode that falls into a folder with a manifest would go unseen.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}


def pytest_configure(config: pytest.Config) -> None:
    """Where only fast tests run, refuse a test that starts a process."""
    if "not slow" in config.option.markexpr:
        sys.addaudithook(_refuse)


def _refuse(event: str, _: object) -> None:
    test = os.environ.get("PYTEST_CURRENT_TEST")
    if event in _STARTS and test is not None:
        raise RuntimeError(f"{test} starts a process: mark it with pytest.mark.slow")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Undo the umask that a command of ours sets for its process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


def pytest_collection_finish() -> None:
    """Free each later garbage collection of the modules that are there."""
    _freeze_modules()


def pytest_runtest_logfinish() -> None:
    """Free each later garbage collection of the modules that a test imported."""
    _freeze_modules()


def _freeze_modules() -> None:
    """Let the garbage collector pass over what there is, where modules were imported.

    A training collects garbage several times. In a process that holds all our libraries and tests
    that takes a second each time, in a stage's own process a tenth of one.
    """
    global _modules
    if len(sys.modules) - _modules > 20:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


_modules = 0
