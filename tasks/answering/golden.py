"""Golden prompts: what a release bundle is known to find, ask and answer, checked at each load.

Newer code, another library, another base or a damaged index can answer otherwise without any error.
So a bundle carries a few questions with the passages found for them, the token ids of their prompts
and the tokens of their answers. Search and ids are checked for all of them, the first tokens of the
answers for the few that were chosen for being short.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from tasks.answering.labels import read_labels
from tasks.answering.pipeline import Answerer
from tasks.generation.greedy_decoding import generate
from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import LanguageModel
from tasks.prompting.files import PROMPT
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import Message
from tasks.records.tool_text import question_of
from tasks.stage.errors import ConfigError
from tasks.stage.params import StageParams

GOLDEN_FILE = "golden.json"
FORMAT = 2
_REMEDY = (
    "use the code and the libraries that the bundle was made with (MLmodel and requirements.lock "
    "name them), or run `nightloom run`, which makes and judges a bundle with what is installed now"
)


class GoldenPassage(StageParams):
    """A passage that search found: its id, and its text as prompts hold it."""

    id: str
    text: str


class GoldenPrompt(StageParams):
    """One question of the test split, and what the model answered.

    `checked_tokens` is how many of the answer's first tokens a load must hear again; 0 for most.
    They end before the first token that a rounding could turn.
    """

    record: str
    turns: tuple[tuple[str, str], ...] = Field(description="role and content; the last asks")
    passages: tuple[GoldenPassage, ...]
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    checked_tokens: int = Field(ge=0)

    @property
    def prompt(self) -> Prompt:
        """Return the prompt before it is rendered."""
        turns = tuple(Message(role, content) for role, content in self.turns)
        return Prompt(turns, tuple(passage.text for passage in self.passages))


class GoldenPrompts(StageParams):
    """`golden.json`: the golden prompts of each served model."""

    format: int = FORMAT
    models: dict[str, tuple[GoldenPrompt, ...]]

    @classmethod
    def read(cls, bundle: Path) -> "GoldenPrompts":
        """Return the golden prompts of a bundle.

        Raises:
            ConfigError: it has none, or they are of another format.
        """
        path = bundle / GOLDEN_FILE
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            found = None
        if found is None or found.format != FORMAT:
            raise ConfigError(
                f"{bundle} holds no {GOLDEN_FILE} of format {FORMAT}; without golden prompts "
                "nobody knows whether it answers as it was scored",
                "run `nightloom run`, which makes a bundle that has them",
            )
        return found

    def write(self, bundle: Path) -> None:
        """Write `golden.json` into a bundle."""
        (bundle / GOLDEN_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def check_golden(bundle: Path, answerer: Answerer, model: str) -> None:
    """Check that a bundle finds, asks and answers its golden prompts as it was recorded.

    Raises:
        ConfigError: it does not; the message names the prompt and the passage or token.
    """
    _check_search(answerer, GoldenPrompts.read(bundle).models[model])
    check_golden_model(
        bundle, model, answerer.language_model, answerer.template, answerer.batch_size
    )


def check_golden_model(
    bundle: Path,
    model: str,
    language_model: LanguageModel,
    template: PromptTemplate,
    batch_size: int,
) -> None:
    """Check that a bundle's model asks and answers its golden prompts as it was recorded.

    For loads without the index; what search finds is not looked at.

    Raises:
        ConfigError: it does not; the message names the prompt and the token.
    """
    golden = GoldenPrompts.read(bundle).models[model]
    _check_ids(language_model, template, golden)
    checked = [item for item in golden if item.checked_tokens]
    labels = read_labels(bundle / model / PROMPT, language_model)
    _check_answers(language_model, checked, batch_size, labels)


def _check_search(answerer: Answerer, golden: Sequence[GoldenPrompt]) -> None:
    questions = [question_of(item.prompt.turns) for item in golden]
    found = answerer.find(questions)
    for number, (item, passages) in enumerate(zip(golden, found, strict=True), start=1):
        now = [(one.passage.id, one.passage.shown) for one in passages]
        known = [(one.id, one.text) for one in item.passages]
        if now != known:
            shown, expected = (", ".join(id for id, _ in ids) or "none" for ids in (now, known))
            raise ConfigError(
                f"golden prompt {number} of {len(golden)} (record {item.record}) finds passages "
                f"{shown}; recorded are {expected}, with the texts that they had. Other passages "
                "give other answers than those that were scored",
                _REMEDY,
            )


def _check_ids(
    language_model: LanguageModel, template: PromptTemplate, golden: Sequence[GoldenPrompt]
) -> None:
    rendered = template.token_ids(language_model.tokenizer, [item.prompt for item in golden])
    for number, (item, ids) in enumerate(zip(golden, rendered, strict=True), start=1):
        _compare(ids, item.prompt_ids, f"golden prompt {number} of {len(golden)}", item.record)


def _check_answers(
    language_model: LanguageModel,
    golden: Sequence[GoldenPrompt],
    batch_size: int,
    labels: LabelTrie | None,
) -> None:
    """Decode the first tokens of answers that are checked, all in one batch."""
    if not golden:
        return
    longest = max(item.checked_tokens for item in golden)
    made = generate(
        language_model,
        [item.prompt_ids for item in golden],
        max_new_tokens=longest,
        batch_size=batch_size,
        labels=labels,
    )
    for item, answer in zip(golden, made, strict=True):
        wanted = item.answer_ids[: item.checked_tokens]
        checked = answer.token_ids[: item.checked_tokens]
        _compare(checked, wanted, "the answer to a golden prompt", item.record)


def _compare(found: Sequence[int], known: Sequence[int], what: str, record: str) -> None:
    if tuple(found) == tuple(known):
        return
    pairs = enumerate(zip(found, known, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(found), len(known)))
    now, then = ((ids[place] if place < len(ids) else "none") for ids in (found, known))
    raise ConfigError(
        f"{what} (record {record}) parts from what was recorded at token {place + 1}: it is {now} "
        f"and was {then} ({len(found)} tokens, {len(known)} recorded). What is served would not be "
        "what was scored",
        _REMEDY,
    )
