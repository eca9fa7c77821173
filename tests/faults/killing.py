"""A stage as a process, that is killed once it has taken so many optimizer steps and run again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from tasks.stage.outputs import folder_files, verified
from tasks.stage.params import read_yaml
from tests.faults.failing_writes import Fault
from tests.faults.stages import StageForks


@dataclass(frozen=True)
class Victim:
    """A stage, its changed params and what it reads; all else is of one folder a run.

    `made` is the folder it makes; `forks` run it.
    """

    name: str
    paths: type[Any]
    changes: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Path]
    made: str
    forks: StageForks

    def reading(self, name: str, folder: Path) -> "Victim":
        """The same, with another folder for one of its inputs."""
        return replace(self, given={**self.given, name: folder})

    def options(self, root: Path) -> list[str]:
        """The stage's options, with its outs and scratch in a folder of its own."""
        found = ["--params"]
        for name, changes in self.changes.items():
            path = root / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(read_yaml(Path(f"params/{name}.yaml")) | changes))
            found.append(str(path))
        for field in fields(self.paths):
            found += [f"--{field.name}", str(self.given.get(field.name, root / field.name))]
        return found

    def curves(self, root: Path) -> Path:
        """Where the stage writes its curves."""
        return root / "scratch" / self.name / "curves.jsonl"

    def steps_done(self, root: Path, series: str = "") -> int:
        """How many steps a training has taken."""
        path = self.curves(root)
        if not path.exists():
            return 0
        wanted = f"{series}/loss" if series else "loss"
        lines = path.read_bytes().split(b"\n")[:-1]
        return sum(json.loads(line)["name"] == wanted for line in lines)

    def kill_at(self, step: int, root: Path, series: str = "") -> None:
        """Run the stage and kill it, as the kernel would, once a training took so many steps."""
        self.forks.start(self.name, self.options(root))
        deadline = time.monotonic() + 120
        while self.steps_done(root, series) < step and time.monotonic() < deadline:
            time.sleep(0.002)
        reached = self.steps_done(root, series)
        self.forks.kill()
        assert self.forks.wait() == -signal.SIGKILL, f"it had ended by itself: {self.forks.said}"
        assert reached >= step, f"it had taken {reached} steps after two minutes"

    def end(self, root: Path, fault: Fault | None = None) -> int:
        """Run the stage to its end; its exit code."""
        self.forks.start(self.name, self.options(root), fault)
        return self.forks.wait()

    def finish(self, root: Path, fault: Fault | None = None) -> dict[str, str]:
        """Run the stage, which must go well; the hashes of the files that it made."""
        assert self.end(root, fault) == 0, self.forks.said
        return folder_files(verified(root / self.made))

    def run_alone(self, root: Path) -> dict[str, str]:
        """Run the stage to its end as a process of its own; the hashes of what it made."""
        command = [sys.executable, "-m", f"tasks.{self.name}", *self.options(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder_files(verified(root / self.made))
