"""What holds for every test: programs run as they do at a user's; fast tests start none."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest

# Where it is set, bytecode that falls into a folder with a manifest would go unseen.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_CURRENT = "PYTEST_CURRENT_TEST"
_UMASK = 0o022  # a user's, whatever that of the shell or the CI
_collected: dict[str, str] = {}  # the environment, once every test file is imported
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}


def pytest_configure(config: pytest.Config) -> None:
    """Where only fast tests run, refuse a test that starts a process."""
    if "not slow" in config.option.markexpr:
        sys.addaudithook(_refuse)


def _refuse(event: str, _: object) -> None:
    test = os.environ.get(_CURRENT)
    if event in _STARTS and test is not None:
        raise RuntimeError(f"{test} starts a process: mark it with pytest.mark.slow")


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Undo what a command of ours, called in a test, sets for its whole process."""
    environment = dict(os.environ)
    os.umask(_UMASK)
    yield
    _restore(environment)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Undo it after each file as well: fixtures of a whole file call commands too."""
    yield
    if nextitem is None or nextitem.path != item.path:
        _restore(_collected)


def _restore(environment: dict[str, str]) -> None:
    """Make umask and environment what they were; pytest's own variable is not ours."""
    os.umask(_UMASK)
    for name in set(os.environ) - set(environment) - {_CURRENT}:
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name != _CURRENT})


def pytest_collection_finish() -> None:
    """Free each later garbage collection of the modules that are there."""
    _collected.update(os.environ)
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
