"""What students and controls learn tonight, what chooses checkpoints, and what compares them."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from transformers import PreTrainedModel

from tasks.distillation.params import DistillationParams
from tasks.generation.greedy_decoding import generate
from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import end_of_turn
from tasks.records.predictions import Role
from tasks.records.text import text_sha256
from tasks.sequences.examples import Example
from tasks.sequences.packing import Batch, Pack
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.outputs import write_atomically
from tasks.training.batches import make_batches, read_splits

LOGGER = logging.getLogger(__name__)

# Returns examples with other answers than theirs.
AnswerExamples = Callable[[Sequence[Example]], list[Example]]


@dataclass(frozen=True)
class DistillationData:
    """The night's batches: what students learn, what controls learn, and what is held out.

    `further` is what the fit takes beyond what is learned, up to `calibration_tokens`; the layers'
    influence is measured on `influence_examples`. `overlap` counts the compared examples that also
    choose the checkpoints.
    """

    overlap: int
    calibration_tokens: int
    influence_examples: int
    taught: list[Batch]
    further: list[Batch]
    gold: list[Batch]
    validation: list[Batch]
    compared: list[Batch]

    def fitted_packs(self) -> list[Pack]:
        """Return the first packs of what students learn, then of `further`, that the fit takes."""
        packs = _packs(*self.taught, *self.further)
        before = accumulate((pack.tokens for pack in packs), initial=0)
        wanted = self.calibration_tokens
        return [pack for pack, held in zip(packs, before, strict=False) if held < wanted]

    def influence_packs(self) -> list[Pack]:
        """Return the first packs of what controls learn, on which influence is measured."""
        packs = _packs(*self.gold)
        before = accumulate((pack.examples for pack in packs), initial=0)
        wanted = self.influence_examples
        return [pack for pack, held in zip(packs, before, strict=False) if held < wanted]

    def learned_by(self, role: Role) -> list[Batch]:
        """Return what a student learns, or what its control does."""
        return self.taught if role == "student" else self.gold

    def signal_packs(self) -> list[Pack]:
        """Return the packs for which a student's loss asks its teacher."""
        return _packs(*self.taught, *self.validation)

    def held_out_packs(self) -> list[Pack]:
        """Return the packs that nobody learns from."""
        return _packs(*self.validation, *self.compared)

    def prepared(self, model: PreTrainedModel) -> "DistillationData":
        """Return the same in packs that this model, too, computes exactly."""
        groups = (self.taught, self.further, self.gold, self.validation, self.compared)
        taught, further, gold, validation, compared = prepare_packs(model, *groups)
        return replace(
            self,
            taught=taught,
            further=further,
            gold=gold,
            validation=validation,
            compared=compared,
        )


def _packs(*batches: Batch) -> list[Pack]:
    return [pack for batch in batches for pack in batch.packs]


def read_data(
    tokens: Path, params: DistillationParams, *, max_tokens: int, answer: AnswerExamples | None
) -> DistillationData:
    """Return the night's batches, in packs of at most `max_tokens`.

    Validation takes the first of what is held out and the comparison the last, so that they are
    apart unless the split is small. Students learn the answers of `answer`, where there is one.
    """
    learned, held_out = read_splits(tokens, params)
    validation = held_out[: params.validation_examples]
    compared = held_out[-params.compared_examples :]
    overlap = len(validation) + len(compared) - len({item.id for item in (*validation, *compared)})
    if overlap:
        LOGGER.warning(
            "%d of the %d compared examples also choose the checkpoints: the validation split "
            "holds %d, and %d are needed for both to be apart",
            overlap,
            len(compared),
            len(held_out),
            params.validation_examples + params.compared_examples,
        )
    taught = learned if answer is None else answer(learned)
    # What a budget as large as the calibration's would take beyond the learned.
    larger = params.model_copy(update={"token_budget": params.calibration_tokens})
    known = {item.id for item in learned}
    further = [item for item in read_splits(tokens, larger)[0] if item.id not in known]
    groups = (taught, further, learned, validation, compared)
    batches = (make_batches(group, params, max_tokens=max_tokens) for group in groups)
    return DistillationData(overlap, params.calibration_tokens, params.influence_examples, *batches)


def with_teacher_answers(
    examples: Sequence[Example],
    *,
    teacher: LanguageModel,
    identity: str,
    memo: Path,
    max_new_tokens: int,
    batch_size: int,
    labels: LabelTrie | None = None,
) -> list[Example]:
    """Return the examples with the teacher's own greedy answers instead of theirs.

    Source: sequence-level distillation, Kim and Rush 2016, arXiv:1606.07947, with a beam of one.
    Answers lie in a memo below `memo` that `identity` names, which stands for the teacher's weights
    and how it computes, and for `labels`, where it may say nothing else; without it only time is
    lost.
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
            labels=labels,
        )
        known |= {key: list(one.token_ids) for key, one in zip(new, found, strict=True)}
        for other in memo.glob("answers-*.json"):
            other.unlink()  # another night's, or this one's with fewer answers
        write_atomically(path, json.dumps(known))
    LOGGER.info("the teacher answered %d prompts, %d of them tonight", len(prompts), len(new))
    end = end_of_turn(teacher.tokenizer)
    made = []
    for item in examples:
        answer = known[_prompt_key(item)]
        ended = answer if len(answer) == max_new_tokens else [*answer, end]
        made.append(replace(item, token_ids=(*item.token_ids[: item.prompt_length], *ended)))
    return made


def _prompt_key(example: Example) -> str:
    return text_sha256(*map(str, example.token_ids[: example.prompt_length]))
