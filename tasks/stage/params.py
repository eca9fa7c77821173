"""Typed params: YAML files in, one frozen and validated object out."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)

from tasks.stage.errors import ConfigError, without_password

P = TypeVar("P", bound="StageParams")
# Keys of older versions, with the names that they have now.
RENAMED = {
    "promotion.rules.gain_over_twin": "promotion.rules.gain_over_control",
    "ingestion.source": "ingestion.sources, a list such as [{name: files, kind: files}],",
    **{
        f"ingestion.{name}": f"ingestion.source_defaults.{name}"
        for name in ("limit", "files", "hub", "sql", "columns")
    },
    **{
        f"ingestion.{name}": f"ingestion.source_defaults.python_docs.{name}"
        for name in ("packages", "document_characters", "unanswerable_share")
    },
}
# Files whose values no error shows: a secret may stand there by mistake.
_UNSHOWN = {"notify"}


class StageParams(BaseModel):
    """Params with types, bounds and no defaults: values live in YAML, once.

    A stage's params class has one field for each YAML file, named as the file's stem.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ModelSource(StageParams):
    """Where a model comes from."""

    source: str = Field(
        pattern=r"^(embedded:|hub:|tiny:|/|\./|\.\./|~).+",
        description="embedded:NAME, hub:OWNER/NAME, tiny:NAME, or a folder (from / or ./)",
    )
    revision: str | None = Field(description="the hub's commit, 40 hex digits; null otherwise")


Pooling = Literal["mean", "cls", "lasttoken"]


class EmbedderSource(ModelSource):
    """Where an embedder comes from, and what its files don't say of how it was trained."""

    # Their defaults are what bundles of before mean, whose settings name none of them.
    query_prompt: str | None = Field(
        default=None, description="text before each question; null: what its files name, if any"
    )
    passage_prompt: str | None = Field(
        default=None, description="text before each passage; null: what its files name, if any"
    )
    pooling: Pooling | None = Field(
        default=None, description="of a bare encoder; null: what its files name, else the mean"
    )


# Names that every rendering gives by itself, or that would let a template see the clock.
_RESERVED = frozenset(
    {
        "messages", "tools", "documents", "add_generation_prompt", "raise_exception",
        "strftime_now", "bos_token", "eos_token", "namespace", "dict", "range",
    }
)  # fmt: skip


def _as_day(value: object) -> object:
    """Return the day that a text such as "2025-01-01" names."""
    if isinstance(value, date):
        raise ValueError(f'a date without quotes; expected "{value}" in quotes')
    return date.fromisoformat(value) if isinstance(value, str) else value


class TemplateParams(StageParams):
    """How a base's chat template is rendered, in training and in serving alike."""

    arguments: dict[str, JsonValue] = Field(
        description="what it takes besides the chat, such as enable_thinking"
    )
    clock: Annotated[date, BeforeValidator(_as_day)] = Field(
        description="the day that it is told to be today, as text: DVC records no dates"
    )
    system: Literal["fold", "refuse"] = Field(
        description="where it renders no system turn: above the first question, or not at all"
    )

    @field_validator("arguments")
    @classmethod
    def _names(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Return arguments whose names a template can ask for."""
        odd = [
            name
            for name in arguments
            if not (name.isidentifier() and name.isascii()) or name in _RESERVED
        ]
        if odd:
            raise ValueError(f"no template takes an argument of the name {', '.join(odd)}")
        return arguments


class BaseSource(ModelSource):
    """Where the base comes from, and how chats are rendered for it."""

    template: TemplateParams | None = Field(
        description="null: as it is, which a template that asks for the date can't be"
    )


class ModelsParams(StageParams):
    """`params/models.yaml`."""

    base: BaseSource
    embedder: EmbedderSource
    student: ModelSource | None = Field(description="a student that is a model of its own")
    numeric_form: Literal["nf4_dequantized", "int8_dequantized", "float"]


class RerankingParams(StageParams):
    """`params/reranking.yaml`: a second look at the passages that search found."""

    model: ModelSource | None = Field(description="a cross-encoder with one output, or none")
    passages: int = Field(ge=1, le=1000, description="fused passages that it reads a question with")


class ComputeParams(StageParams):
    """`params/compute.yaml`: what does not change results."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int | None = Field(ge=1)
    dequantized_base: bool = Field(description="whether qlora holds its base dequantised")
    micro_batch_tokens: int = Field(ge=64, description="tokens a forward pass in training")
    generation_batch: int = Field(ge=1, description="prompts decoded together")


class AnsweringParams(StageParams):
    """What a release bundle keeps of `params/prompting.yaml`."""

    passages: int = Field(ge=1, le=50, description="passages a prompt holds")
    passage_words: int = Field(ge=8, le=2000)
    passage_overlap_words: int = Field(ge=0, le=1000)
    max_new_tokens: int = Field(ge=1, le=4096)


class PromptingParams(AnsweringParams):
    """`params/prompting.yaml`: how a question becomes a prompt."""

    language: str = Field(
        pattern="^(auto|[a-z]{2,3})$", description="of the data: auto (by its script), or a code"
    )
    passage_tokens: int = Field(
        ge=16, le=8192, description="tokens of the base that a passage takes, title included"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in one YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something other than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"params file {path} does not exist", f"restore it, e.g. `git checkout -- {path}`"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"params file {path} is not valid YAML: {_yaml_problem(path, error)}", "mend the file"
        ) from None
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ConfigError(
            f"params file {path} holds a {found}; expected a mapping of names to values",
            "write one `name: value` a line",
        )
    return content


def load_params(cls: type[P], files: Sequence[Path]) -> P:
    """Return the params of a stage, read from its YAML files, one section a file.

    Raises:
        ConfigError: with every error of every file at once.
    """
    return validate_params(cls, {path.stem: read_yaml(path) for path in files}, files)


def validate_params(cls: type[P], content: Mapping[str, Any], files: Sequence[Path]) -> P:
    """Return the params object that a nested mapping describes.

    Raises:
        ConfigError: with every error at once.
    """
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        places = {path.stem: str(path) for path in files}
        lines = [_line(item, places) for item in error.errors(include_url=False)]
        raise ConfigError(
            f"{len(lines)} error{'s' if len(lines) > 1 else ''} in params:\n" + "\n".join(lines),
            "mend these values; each params class documents its fields, types and bounds",
        ) from None


def new_key(key: str) -> str | None:
    """Return what a param of an older version is called now, None where it was never renamed."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return None


def _yaml_problem(path: Path, error: Exception) -> str:
    """Return what is wrong with a file; the line itself, too, where it can hold no secret."""
    mark = getattr(error, "problem_mark", None)
    if path.stem not in _UNSHOWN or mark is None:
        return str(error)
    return f"{getattr(error, 'problem', None) or 'an error'} in line {mark.line + 1}"


def _found(value: object) -> str:
    """Return what was found, as a message shows it: no whole section, and no password of a URL."""
    if isinstance(value, Mapping):
        return ""
    return "; found " + without_password(repr(value))


def _line(item: Any, places: Mapping[str, str]) -> str:
    """Return one error of pydantic as a line: file, key, what was found and what was expected."""
    if not item["loc"]:  # params that are well each by itself and do not go together
        return f"  {' and '.join(places.values())}: {item['ctx']['error']}"
    section, *keys = (str(part) for part in item["loc"])
    where = places.get(section, section)
    key = ".".join(keys) or section
    if (new := new_key(".".join((section, *keys)))) is not None:
        return f"  {where}: {key}: this param is called {new.partition('.')[2]} now"
    unshown = item["type"] == "missing" or section in _UNSHOWN
    found = "" if unshown else _found(item["input"])
    hint = "; `git diff HEAD` shows the line, with its comment" if item["type"] == "missing" else ""
    if isinstance(item["input"], str) and "float" in item["type"]:
        hint = " (YAML reads 3e-4 as text: write 3.0e-4)"
    return f"  {where}: {key}: {item['msg'].lower()}{found}{hint}"
