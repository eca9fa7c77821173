"""What a student is taught tonight, and its twin: a loss each, and the teacher's own answers."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from tasks.distillation.objective import Teaching, blended_loss
from tasks.distillation.params import ObjectiveParams
from tasks.lm.examples import Example
from tasks.lm.generation import generate
from tasks.lm.losses import SummedLoss
from tasks.lm.models import LanguageModel
from tasks.lm.packing import Pack, packed_logits
from tasks.records.hashing import text_sha256
from tasks.stage.outputs import write_atomically

LOGGER = logging.getLogger(__name__)
Teacher = Callable[[Pack], Teaching]


def taught(teacher: Teacher, objective: ObjectiveParams, width: int) -> SummedLoss:
    """The blend of a teacher's divergences and the gold tokens, over `width` tokens."""

    def loss(student: nn.Module, pack: Pack) -> Tensor:
        teaching = teacher(pack) if objective.divergence else None
        return blended_loss(
            packed_logits(student, pack)[:, :width], teaching, pack.targets, objective
        )

    return loss


def untaught(objective: ObjectiveParams, width: int) -> SummedLoss:
    """The twin's loss: the gold tokens alone."""

    def loss(twin: nn.Module, pack: Pack) -> Tensor:
        return blended_loss(packed_logits(twin, pack)[:, :width], None, pack.targets, objective)

    return loss


def answered(
    teacher: LanguageModel,
    identity: str,
    examples: Sequence[Example],
    memo: Path,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[Example]:
    """The examples with the teacher's own greedy answers instead of theirs.

    Source: sequence-level distillation, Kim and Rush 2016, arXiv:1606.07947, with a beam of one.
    Answers lie in a memo below `memo` that `identity` names, which stands for the teacher's weights
    and how it computes; without it only time is lost.
    """
    path = memo / f"answers-{identity[:32]}-{max_new_tokens}.json"
    known: dict[str, list[int]] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            LOGGER.warning("%s can't be read (%s): every answer is made again", path, error)
    prompts = {_prompt_key(item): item.token_ids[: item.prompt_length] for item in examples}
    new = {key: prompt for key, prompt in prompts.items() if key not in known}
    if new:
        found = generate(
            teacher,
            list(new.values()),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        known |= {key: list(one.token_ids) for key, one in zip(new, found, strict=True)}
        for other in memo.glob("answers-*.json"):
            other.unlink()  # another night's, or this one's with fewer answers
        write_atomically(path, json.dumps(known))
    LOGGER.info("the teacher answered %d prompts, %d of them tonight", len(prompts), len(new))
    end = teacher.tokenizer.eos_token_id
    made = []
    for item in examples:
        answer = known[_prompt_key(item)]
        ended = answer if len(answer) == max_new_tokens else [*answer, end]
        made.append(replace(item, token_ids=(*item.token_ids[: item.prompt_length], *ended)))
    return made


def _prompt_key(example: Example) -> str:
    return text_sha256(*map(str, example.token_ids[: example.prompt_length]))
