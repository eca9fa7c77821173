"""Two versions of the tiny bundle that answer differently, and a way to hear an engine out."""

import queue
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tasks.records.schema import Message, ServedModel
from tasks.serving.batcher import Batcher
from tasks.serving.memory_budget import MemoryBudget
from tasks.serving.protocol import ServeVersion
from tasks.serving.requests import AnswerRequest, Begun, Event, Reply, TextDelta
from tasks.stage.outputs import write_manifest
from tests.builders.packaging import PACKAGING, Params, package
from tests.unit.conftest import Tiny


def budget(keep_free: int = 0) -> MemoryBudget:
    """A budget of what this machine has, but for so many bytes."""
    return MemoryBudget(keep_free)


@dataclass(frozen=True)
class Bundles:
    """Version 1 and 2 in folders of their own, and the store of their base."""

    folders: dict[int, Path]
    store: Path

    def order(
        self, version: int, alias: str = "production", model: ServedModel = "adapter"
    ) -> ServeVersion:
        bundle = str(self.folders[version])
        return ServeVersion(model=model, version=version, alias=alias, bundle=bundle)


@dataclass(frozen=True)
class OtherAdapter(Tiny):
    """The tiny models with another adapter."""

    other: Path

    @property
    def adapter(self) -> Path:
        return self.other


def make_bundles(root: Path, tiny: Tiny, scored: Any, shared: dict[str, Any]) -> Bundles:
    """The bundles of two nights; the second's adapter says something else."""
    shutil.copytree(tiny.adapter, root / "adapter")
    weights = root / "adapter" / "adapter_model.safetensors"
    save_file({name: -3 * weight for name, weight in load_file(weights).items()}, weights)
    write_manifest(root / "adapter")
    settings = shared | {"packaging": PACKAGING | {"max_mismatch": 1.0}}
    params = Params.model_validate(settings)
    nights = {1: tiny, 2: OtherAdapter(tiny.root, root / "adapter")}
    return Bundles(
        {
            number: package(root / str(number), params, night, scored.index, scored.report)
            for number, night in nights.items()
        },
        tiny.store,
    )


class Ear:
    """What an engine tells one who asked."""

    def __init__(self, engine: Batcher, question: str, **options: Any) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        turns = [Message("user", question)]
        self.inquiry: AnswerRequest = engine.ask(turns, self.events.put, **options)
        self.begun: Begun | None = None
        self.pieces: list[str] = []

    def hear(self) -> Reply:
        """The whole answer; an error is raised."""
        while True:
            event = self.events.get(timeout=60)
            match event:
                case Begun():
                    self.begun = event
                case TextDelta():
                    self.pieces.append(event.text)
                case Reply():
                    return event
                case _:
                    raise event
