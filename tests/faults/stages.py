"""Stages as forks of one process that has imported what they use, so that a kill costs no import.

`python -m tests.faults.stages` reads a stage's command line from each line of stdin, and how it is
to fail. It runs the stage in a fork, and says the fork's pid and then its exit code.
"""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.stage.command import run_stage
from tests.faults.failing_writes import Fault, changes_counted

_NAMES = ("curation", "tokenization", "finetuning", "distillation", "indexing")


class StageForks:
    """The process that is forked, for as long as a block lasts; one stage runs at a time."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._running: int | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.stages"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._server.communicate()

    def start(self, name: str, arguments: list[str], fault: Fault | None = None) -> None:
        """Run a stage by its command line."""
        assert self._server.stdin is not None
        how = None if fault is None else fault.message()
        self._server.stdin.write(json.dumps([how, name, *arguments]) + "\n")
        self._running = self._heard()

    def kill(self) -> None:
        """Kill it, as the kernel would."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.kill(self._running, signal.SIGKILL)

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        code = self._heard()
        self._running = None
        return code

    @property
    def said(self) -> str:
        """What it said last."""
        return self._log.read_text(errors="replace")[-3000:]

    def _heard(self) -> int:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, self.said
        return int(line)


def _import_stages() -> None:
    """Import what the stages do, and what they import only once they run."""
    for name in _NAMES:
        importlib.import_module(f"tasks.{name}.__main__")
    for name in ("peft", "matplotlib.pyplot"):
        importlib.import_module(name)
    transformers = importlib.import_module("transformers")
    for name in ("LlamaForCausalLM", "AutoModelForCausalLM", "AutoTokenizer", "Trainer"):
        getattr(transformers, name)


def _run(how: dict[str, Any] | None, name: str, arguments: list[str]) -> int:
    """Run a stage in this process, as its `__main__` does; it fails as `how` says."""
    module = sys.modules[f"tasks.{name}.__main__"]
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)  # what is said to the server is not for it
    os.dup2(2, 1)
    fault = None if how is None else Fault(**how)
    changes = None if fault is None else fault.inject()
    try:
        code = run_stage(name, module.Params, module.Paths, module.run, arguments)
        if fault is not None and changes is not None and not fault.file_bytes:
            changes_counted(Path(fault.below)).write_text(str(changes()))
        return code
    except BaseException:  # noqa: BLE001  the fork ends here, whatever it was
        traceback.print_exc()
        return 1
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    """Fork for each line until there are no more."""
    _import_stages()
    for line in iter(sys.stdin.readline, ""):
        how, name, *arguments = json.loads(line)
        assert name in _NAMES
        pid = os.fork()
        if pid == 0:
            os._exit(_run(how, name, arguments))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
