"""Stages as forks of one process that has imported what they use, so that a kill costs no import.

`python -m tests.faults.stages` reads a stage's command line from each line of stdin, runs it in a
fork, and says the fork's pid and then its exit code.
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
from typing import Self

from tasks.stage.command import run_stage

_NAMES = ("finetuning", "distillation")


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

    def start(self, name: str, arguments: list[str]) -> None:
        """Run a stage by its command line."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([name, *arguments]) + "\n")
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


def _run(name: str, arguments: list[str]) -> int:
    """Run a stage in this process, as its `__main__` does."""
    module = sys.modules[f"tasks.{name}.__main__"]
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)  # what is said to the server is not for it
    os.dup2(2, 1)
    try:
        return run_stage(name, module.Params, module.Paths, module.run, arguments)
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
        name, *arguments = json.loads(line)
        assert name in _NAMES
        pid = os.fork()
        if pid == 0:
            os._exit(_run(name, arguments))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
