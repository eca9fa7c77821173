"""Golden prompts chosen: what each load of a bundle must find, ask and answer again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.answering.golden import GoldenPassage, GoldenPrompt
from tasks.answering.pipeline import Answer, Answerer
from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import LanguageModel
from tasks.packaging.params import PackagingParams
from tasks.prompting.templates import Prompt
from tasks.records.schema import Record
from tasks.stage.errors import ConfigError

# Below this share of the logits' spread, another processor's rounding could choose another token.
_TIE = 0.01


def choose_golden_prompts(
    answerer: Answerer,
    records: Sequence[Record],
    answers: Sequence[Answer],
    params: PackagingParams,
) -> tuple[GoldenPrompt, ...]:
    """Return one golden prompt a record, in their order; the shortest are those whose answers are
    checked.

    Raises:
        ConfigError: the prompts don't come out as those that were answered.
    """
    asked = [
        Prompt(record.messages[:-1], tuple(used.passage.shown for used in answer.passages))
        for record, answer in zip(records, answers, strict=True)
    ]
    rendered = answerer.template.token_ids(answerer.language_model.tokenizer, asked)
    found = [
        GoldenPrompt(
            record=record.id,
            turns=tuple((turn.role, turn.content) for turn in record.messages[:-1]),
            passages=tuple(
                GoldenPassage(id=used.passage.id, text=used.passage.shown)
                for used in answer.passages
            ),
            prompt_ids=tuple(ids),
            answer_ids=answer.token_ids,
            checked_tokens=0,
        )
        for record, answer, ids in zip(records, answers, rendered, strict=True)
    ]
    checked = _checked_tokens(answerer, found, params)
    return tuple(
        item.model_copy(update={"checked_tokens": checked.get(item.record, 0)}) for item in found
    )


def _checked_tokens(
    answerer: Answerer, golden: Sequence[GoldenPrompt], params: PackagingParams
) -> dict[str, int]:
    """Return how many tokens of which answers are asked for again at each load.

    Raises:
        ConfigError: no answer begins with a token that is certain.
    """
    found: dict[str, int] = {}
    for item in sorted(golden, key=lambda item: (len(item.prompt_ids), item.record)):
        if len(found) == params.golden_answers:
            break
        kept = item.answer_ids[: params.golden_tokens]
        count = certain_tokens(
            answerer.language_model, item.prompt_ids, kept, labels=answerer.labels
        )
        if count:
            found[item.record] = count
    if not found:
        raise ConfigError(
            f"none of {len(golden)} golden answers begins with a token that stands out from the "
            "second best; expected at least one, or no load can tell whether the model is the same",
            "look at the model's answers in the packaging report: it may have learned nothing",
        )
    return found


@torch.inference_mode()
def certain_tokens(
    language_model: LanguageModel,
    prompt: Sequence[int],
    answer: Sequence[int],
    labels: LabelTrie | None = None,
) -> int:
    """Return how many of an answer's first tokens are the likeliest by more than rounding could
    turn; among those that go on with a label, where there are labels.
    """
    if not answer:
        return 0
    ids = torch.tensor([[*prompt, *answer]], device=language_model.device)
    logits = language_model.model(input_ids=ids, use_cache=False).logits[0]
    told = logits[len(prompt) - 1 : -1].float()
    spread = told.std(dim=-1)
    if labels is not None:
        told = _allowed_alone(told, answer, labels)
    best = told.topk(2, dim=-1)
    margins = best.values[:, 0] - best.values[:, 1]
    sure = margins > _TIE * spread
    same = best.indices[:, 0] == ids[0, len(prompt) :]
    return int((sure & same).int().cumprod(0).sum())


def _allowed_alone(told: Tensor, answer: Sequence[int], labels: LabelTrie) -> Tensor:
    """Return logits (tokens, vocabulary) in which what goes on with no label can't be chosen."""
    found = torch.full_like(told, float("-inf"))
    for place in range(len(answer)):
        allowed = labels.allowed(answer[:place])
        found[place, allowed] = told[place, allowed]
    return found
