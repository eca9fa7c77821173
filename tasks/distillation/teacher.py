"""A night's teacher: what it says of a pack, computed along or read from a memo."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.distillation.objective import Likeliest, TeacherOutput, check_finite, likeliest
from tasks.distillation.pruning import decoder_layers
from tasks.models.loading import LanguageModel
from tasks.records.text import text_sha256
from tasks.sequences.packing import Pack, packed_logits
from tasks.stage.errors import DataError

LOGGER = logging.getLogger(__name__)


class StateMemory:
    """What a teacher's last layer gave for some packs, each state (1, tokens, width).

    From there to the logits are a norm and the vocabulary head, which are computed anew: a state is
    smaller than its logits by a factor of about a hundred, and as exact.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._wanted: set[tuple[str, ...]] = set()
        self._states: dict[tuple[str, ...], Tensor] = {}

    def want(self, packs: Iterable[Pack]) -> None:
        """Remember these packs once they have been computed."""
        self._wanted |= {pack.keys for pack in packs}

    def keep(self, pack: Pack, state: Tensor) -> None:
        """Remember what the last layer gave for a pack."""
        self._states[pack.keys] = state

    def logits(self, model: PreTrainedModel, pack: Pack) -> Tensor:
        """Return the logits (supervised, vocabulary) of the model that computed all packs."""
        layers = decoder_layers(model)
        state = self._states.get(pack.keys)
        if state is not None:
            with replaced_layers(layers, lambda *_, **__: state):
                return packed_logits(model, pack)
        if pack.keys not in self._wanted:
            return packed_logits(model, pack)
        with _captured_output(layers[-1]) as given:
            logits = packed_logits(model, pack)
        self.keep(pack, given[0])
        return logits


@contextmanager
def replaced_layers(layers: nn.ModuleList, forward: Callable[..., Any]) -> Iterator[None]:
    """Let layers do something else while this lasts."""
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def _captured_output(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Give what a layer puts out, while this lasts."""
    given: list[Tensor] = []

    def take(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        given.append((output[0] if isinstance(output, tuple) else output).detach())

    hook = layer.register_forward_hook(take)
    try:
        yield given
    finally:
        hook.remove()


MemoRow = tuple[NDArray[np.uint32], NDArray[np.float16], NDArray[np.float16]]


class OnlineTeacher:
    """A teacher that runs along: its logits at each supervised position."""

    def __init__(
        self, model: PreTrainedModel, width: int, memory: StateMemory | None = None
    ) -> None:
        """Teach with a model's first `width` logits: those beyond are no token's.

        What the memory holds is not computed again.
        """
        self.model = model
        self.width = width
        self._memory = memory or StateMemory()

    def __call__(self, pack: Pack) -> Tensor:
        """Return the logits from which a pack's targets are predicted, (supervised, width)."""
        with torch.no_grad():
            return self._memory.logits(self.model, pack)[:, : self.width]


@dataclass(frozen=True)
class MemoKey:
    """What the numbers of a memo depend on, beside the examples themselves.

    `teacher` stands for its weights and how it computes; an example's key holds its tokens, and
    with them row, template and tokenizer.
    """

    teacher: str
    width: int
    likeliest: int
    temperature: float

    @property
    def digest(self) -> str:
        """Return the SHA-256 that names the memo's file and is written into it."""
        return text_sha256(
            self.teacher, str(self.width), str(self.likeliest), repr(self.temperature)
        )


class CachedTeacher:
    """A teacher's likeliest tokens and the mass of the rest, computed once an example.

    The memo lies in `folder` and serves epochs, students, reruns and resumes; without it only time
    is lost. Log-probabilities are float16: a thousandth of them, less than a step of training.
    """

    def __init__(self, teacher: OnlineTeacher, key: MemoKey, folder: Path) -> None:
        """Open the memo of this teacher.

        Raises:
            DataError: it was made by another teacher or with other settings, or it is damaged.
        """
        self._online = teacher
        self._key = key
        self._path = folder / f"teacher-{key.teacher[:16]}-{key.digest[:16]}.npz"
        self._rows: dict[str, MemoRow] = _read_memo(self._path, key) if self._path.exists() else {}

    def prepare(self, packs: Iterable[Pack]) -> int:
        """Compute what the memo lacks of these packs, and keep it; how many examples that were."""
        new: dict[str, MemoRow] = {}
        for pack in packs:
            if any(key not in self._rows and key not in new for key in pack.keys):
                new |= self._computed(pack)
        if new:
            self._rows = new | self._rows
            _write_memo(self._path, self._key, self._rows)
            for path in self._path.parent.glob("teacher-*"):
                if not path.name.startswith(f"teacher-{self._key.teacher[:16]}"):
                    path.unlink()  # another night's
            LOGGER.info(
                "%d examples of the teacher are in %s, %.0f bytes a token",
                len(self._rows),
                self._path.name,
                self.bytes_per_token,
            )
        return len(new)

    @property
    def bytes_per_token(self) -> float:
        """Return the bytes that the memo holds for a supervised token."""
        tokens = sum(len(rest) for _, _, rest in self._rows.values())
        return sum(part.nbytes for row in self._rows.values() for part in row) / max(tokens, 1)

    def __call__(self, pack: Pack) -> TeacherOutput:
        """Return the likeliest tokens at each supervised position of a pack that was prepared."""
        ids, log_probs, rest = (
            np.concatenate([self._rows[key][place] for key in pack.keys]) for place in range(3)
        )
        device = pack.targets.device
        return Likeliest(
            torch.from_numpy(ids.astype(np.int64)).to(device),
            torch.from_numpy(log_probs.astype(np.float32)).to(device),
            torch.from_numpy(rest.astype(np.float32)).to(device),
        )

    def _computed(self, pack: Pack) -> dict[str, MemoRow]:
        logits = self._online(pack.to(self._online.model.device))
        check_finite(logits, "logits")
        found = likeliest(logits, self._key.likeliest, temperature=self._key.temperature)
        parts = (
            found.token_ids.cpu().numpy().astype(np.uint32),
            found.log_probs.cpu().numpy().astype(np.float16),
            found.log_rest.cpu().numpy().astype(np.float16),
        )
        ends = np.cumsum(pack.supervised)[:-1]
        split: Any = [np.split(part, ends) for part in parts]
        ids, log_probs, rest = split
        rows = zip(pack.keys, ids, log_probs, rest, strict=True)
        return {key: (one, two, three) for key, one, two, three in rows}


@dataclass(frozen=True)
class Teacher:
    """Everything that a night's teacher is.

    `computes` says in which numbers it computes, `memo` is the folder of what it said, and `states`
    is what it computed of packs that come again.
    """

    language_model: LanguageModel
    computes: tuple[str, ...]
    memo: Path
    states: StateMemory = field(default_factory=StateMemory)

    @property
    def model(self) -> PreTrainedModel:
        """Return the model itself."""
        return self.language_model.model

    @property
    def identity(self) -> str:
        """Return what stands for all that it says: its weights, and how they compute."""
        return text_sha256(self.language_model.digest, *self.computes)

    def online(self, width: int) -> OnlineTeacher:
        """Return the teacher as it runs along, with its first `width` logits."""
        return OnlineTeacher(self.model, width, self.states)

    def cached(
        self, online: OnlineTeacher, packs: Iterable[Pack], *, likeliest: int, temperature: float
    ) -> CachedTeacher:
        """Return the memo of its likeliest tokens at a temperature, made for these packs."""
        kept = min(likeliest, online.width - 1)
        cached = CachedTeacher(
            online, MemoKey(self.identity, online.width, kept, temperature), self.memo
        )
        cached.prepare(packs)
        return cached


def _write_memo(path: Path, key: MemoKey, rows: Mapping[str, MemoRow]) -> None:
    """Write a memo atomically, with a hash of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(rows)
    arrays: dict[str, Any] = {
        "keys": np.array(names, np.str_),
        "lengths": np.array([len(rows[name][2]) for name in names], np.int64),
    }
    for place, part in enumerate(("ids", "log_probs", "rest")):
        arrays[part] = np.concatenate([rows[name][place] for name in names])
    digest = np.array([key.digest, _content_sha256(arrays)], np.str_)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as stream:
        np.savez(stream, digest=digest, **arrays)
    temporary.replace(path)


def _read_memo(path: Path, key: MemoKey) -> dict[str, MemoRow]:
    remedy = f"delete {path}: it is made again, and only time is lost"
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        made_for, digest = map(str, arrays.pop("digest"))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"the teacher's memo {path} can't be read: {error}", remedy) from None
    if made_for != key.digest:
        raise DataError(
            f"the teacher's memo {path} was made for {made_for[:12]}, by another teacher or with "
            f"other settings; tonight's are {key.digest[:12]}",
            remedy,
        )
    if digest != _content_sha256(arrays):
        raise DataError(f"the teacher's memo {path} is damaged: its hash does not fit", remedy)
    ends = np.cumsum(arrays["lengths"])[:-1]
    parts: Any = (np.split(arrays[name], ends) for name in ("ids", "log_probs", "rest"))
    rows = zip(map(str, arrays["keys"]), *parts, strict=True)
    return {name: (ids, log_probs, rest) for name, ids, log_probs, rest in rows}


def _content_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays, by name."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name}{arrays[name].shape}{arrays[name].dtype}".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
