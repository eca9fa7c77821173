"""What people see while a night runs: a live table in a terminal, plain lines elsewhere."""

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.nights import Night, night_file, read_night
from flows.workspace import Workspace
from tasks.stage.metrics import CURVES_FILE, PROGRESS

_MARKS = {
    "executed": ("green", "done"),
    "restored": ("green", "restored"),
    "skipped": ("dim", "current"),
    "failed": ("bold red", "failed"),
    "running": ("bold cyan", "running"),
    "not_run": ("dim", ""),
}
_TAIL_BYTES = 65536
_INTERVAL_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a running stage is, as far as its curves say."""

    share: float | None
    loss: float | None


def read_progress(scratch: Path, since: float) -> Progress:
    """The last share done and the last loss that a stage's curves hold since a time in seconds."""
    path = scratch / CURVES_FILE
    if not path.exists():
        return Progress(None, None)
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = stream.read().split(b"\n")[:-1]
    share, loss = None, None
    for line in lines:
        try:
            point = json.loads(line)
        except ValueError:
            continue  # the first line of the tail may be cut
        if point["timestamp_ms"] < since * 1000:
            continue
        if point["name"] == PROGRESS:
            share = point["value"]
        elif "loss" in point["name"]:
            loss = point["value"]
    return Progress(share, loss)


class NightView:
    """Shows a night from its file in a thread of its own, until the block ends."""

    def __init__(self, workspace: Workspace, night: str, console: Console) -> None:
        self._file = night_file(workspace.checkout, night)
        self._scratch = workspace.path / workspace.checkout_paths().scratch
        self._console = console
        self._stop = threading.Event()
        self._begun = {"": time.time()}
        self._said: set[str] = set()
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._thread = threading.Thread(target=self._follow, name="view", daemon=True)

    def __enter__(self) -> "NightView":
        """Start to show."""
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state and stop."""
        self._stop.set()
        self._thread.join()
        self._show()
        if self._live:
            self._live.stop()

    def _follow(self) -> None:
        self._show()
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._show()

    def _show(self) -> None:
        if not self._file.exists():
            if self._live:
                self._live.update(Text("starting Prefect ...", style="dim"))
            return
        night = read_night(self._file)
        self._begun.setdefault(night.step, time.time())
        if self._live:
            self._live.update(self._table(night))
        else:
            self._say(night)

    def _say(self, night: Night) -> None:
        """Print what was not said yet, a line each."""
        lines = [
            f"{entry.name}: {entry.state} ({entry.seconds:.1f} s)"
            for entry in night.stages
            if entry.state not in ("running", "not_run")
        ]
        if night.verdict is None:
            lines.append(f"{night.step} ...")
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                self._console.print(line, highlight=False, soft_wrap=True)

    def _table(self, night: Night) -> RenderableType:
        table = Table(box=None, padding=(0, 2), show_header=False)
        for entry in night.stages:
            style, mark = _MARKS[entry.state]
            seconds = f"{entry.seconds:.1f} s" if entry.seconds else ""
            detail: RenderableType = ""
            if entry.state == "running":
                elapsed = time.time() - self._begun[entry.name]
                seconds = f"{elapsed:.0f} s"
                detail = self._detail(entry.name, elapsed)
            table.add_row(entry.name, Text(mark, style=style), seconds, detail)
        return Group(Text(f"night {night.night}: {night.step}", style="bold"), table)

    def _detail(self, stage: str, elapsed: float) -> RenderableType:
        """A bar, the loss and the time left of the stage that runs."""
        progress = read_progress(self._scratch / stage, self._begun[stage])
        parts = []
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        if progress.share:
            left = elapsed * (1 - progress.share) / progress.share
            parts.append(f"{left:.0f} s left")
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=progress.share or 0.0, width=30)
        row.add_row(bar if progress.share is not None else "", ", ".join(parts))
        return row
