"""The prompt that a model was trained with, kept beside it: template, demonstrations, golden ids,
and what the base's chat template is bound to.

Whatever loads the model renders prompts from this folder and first checks that the golden ones
still come out token by token, so that newer code or another tokenizer can't silently ask otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from tasks.models.template_binding import bound_settings
from tasks.prompting.files import CHAT, DEMONSTRATIONS, GOLDEN, TEMPLATE
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import Message
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GOLDEN_PROMPTS = 10


@dataclass(frozen=True)
class _Golden:
    """A prompt and the token ids that it must come out as."""

    prompt: Prompt
    ids: tuple[int, ...]


_TURNS = TypeAdapter(tuple[Message, ...])
_GOLDENS = TypeAdapter(tuple[_Golden, ...])


def write_prompt_bundle(
    folder: Path,
    template: PromptTemplate,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
) -> None:
    """Write a template with golden token ids for the first prompts into a new folder."""
    folder.mkdir()
    (folder / TEMPLATE).write_text(template.text, encoding="utf-8")
    (folder / DEMONSTRATIONS).write_bytes(_TURNS.dump_json(template.demonstrations, indent=1))
    golden = prompts[:GOLDEN_PROMPTS]
    rendered = template.token_ids(tokenizer, golden)
    rows = [_Golden(prompt, tuple(ids)) for prompt, ids in zip(golden, rendered, strict=True)]
    (folder / GOLDEN).write_bytes(_GOLDENS.dump_json(tuple(rows)))
    bound = bound_settings(str(tokenizer.chat_template))
    if bound is not None:
        text = json.dumps(bound, indent=1, sort_keys=True) + "\n"
        (folder / CHAT).write_text(text, encoding="utf-8")


def read_template(folder: Path) -> PromptTemplate:
    """Return the template of a folder, for a model that did not learn from its golden prompts.

    Raises:
        ConfigError: a file of the folder is missing.
    """
    missing = [n for n in (TEMPLATE, DEMONSTRATIONS, GOLDEN) if not (folder / n).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} holds no {', '.join(missing)}; expected the prompt that the model learned, "
            "without which it would be asked in other words",
            "run the night again, which writes it beside the model",
        )
    demonstrations = _TURNS.validate_json((folder / DEMONSTRATIONS).read_bytes())
    return PromptTemplate.load(folder / TEMPLATE, demonstrations)


def read_prompt_bundle(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> PromptTemplate:
    """Return the template of a folder, once its golden prompts come out as they were written.

    Raises:
        ConfigError: one of them does not, the tokenizer's chat template is bound to something else,
            or a file of the folder is missing.
    """
    template = read_template(folder)
    _check_chat(folder / CHAT, bound_settings(str(tokenizer.chat_template)))
    goldens = _GOLDENS.validate_json((folder / GOLDEN).read_bytes())
    rendered = template.token_ids(tokenizer, [golden.prompt for golden in goldens])
    for number, (golden, ids) in enumerate(zip(goldens, rendered, strict=True), start=1):
        if tuple(ids) != golden.ids:
            pairs = enumerate(zip(ids, golden.ids, strict=False))
            place = next((at for at, (one, other) in pairs if one != other), len(ids))
            raise ConfigError(
                f"golden prompt {number} of {folder} renders to {len(ids)} token ids; expected "
                f"{len(golden.ids)}, and they part at place {place}. The model learned from the "
                "recorded ids and would be asked with others",
                "use the code and the tokenizer that the model was trained with, or run the night "
                "again",
            )
    return template


def _check_chat(path: Path, bound: Mapping[str, Any] | None) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if known != bound:
        raise ConfigError(
            f"the chat template of this model's tokenizer is bound to {bound or 'nothing'}; the "
            f"model learned with it bound to {known or 'nothing'} ({path})",
            "use the base that the model was trained on, or run the night again",
        )
