"""A chat template that nobody knows yet, rendered in a process of its own that can't run away.

A template is a program that came with a model. It runs in Jinja's sandbox as transformers runs it,
in a child whose processor time and memory the system bounds: a signal handler of our own would not
be called amid one long operation of the interpreter's. Compiling it is bounded too, since Jinja
then computes what is constant (`{{ 'a' * 10 ** 10 }}`); here it is only parsed.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.stage.errors import ConfigError

PROCESSOR_SECONDS = 5
MEMORY_BYTES = 1_000_000_000
_WALL_SECONDS = 120  # where the machine is so busy that the processor time does not pass
_MOST_CHARACTERS = 4_000_000
_MOST_SOURCE = 500_000
_INCLUDING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_REMEDY = "take another template (chat_template.jinja in the model's folder), or another base"


@dataclass(frozen=True)
class Chat:
    """What a template is asked to render: roles with their texts, and whether an answer follows."""

    turns: tuple[tuple[str, str], ...]
    is_asked: bool = True

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the turns as chat templates take them."""
        return [{"role": role, "content": text} for role, text in self.turns]


@dataclass(frozen=True)
class Rendering:
    """The text that a template made of a chat, or why it made none."""

    text: str
    refusal: str | None = None


class _Generation(Extension):
    """Transformers' tag around what the assistant says; its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def template_environment() -> Environment:
    """Return the sandbox in which transformers renders chat templates, without a clock.

    Source: transformers 5.23, utils/chat_template_utils.py, `_compile_jinja_template`.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _to_json(value: object, ensure_ascii: bool = False, **style: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **style)


def _raise(message: str) -> None:
    raise TemplateError(message)


def parse_template(text: str) -> nodes.Template:
    """Return the syntax tree of a chat template.

    Raises:
        ConfigError: it is no template, too long, or includes files.
    """
    if len(text) > _MOST_SOURCE:
        raise ConfigError(
            f"the chat template has {len(text)} characters; expected at most {_MOST_SOURCE}",
            _REMEDY,
        )
    try:
        tree = template_environment().parse(text)
    except (TemplateSyntaxError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"the chat template can't be read: {str(error) or type(error).__name__}; expected one "
            "that transformers can render",
            _REMEDY,
        ) from None
    included = next(tree.find_all(_INCLUDING), None)
    if included is not None:
        raise ConfigError(
            f"the chat template has an {type(included).__name__.lower()} statement in line "
            f"{included.lineno}; a template reads no other file, since that would not travel with "
            "the model",
            _REMEDY,
        )
    return tree


def render_bounded(
    template: str, variables: Mapping[str, Any], chats: Sequence[Chat]
) -> list[Rendering]:
    """Return what a template makes of each chat.

    Raises:
        ConfigError: all together they take more time or memory than a template may, or a text is
            too long.
    """
    asked = {
        "template": template,
        "variables": dict(variables),
        "seconds": PROCESSOR_SECONDS,
        "chats": [[chat.turns, chat.is_asked] for chat in chats],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tasks.models.template_rendering"],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=_WALL_SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _runaway(len(chats), f"{_WALL_SECONDS} s") from None
    if done.returncode < 0:
        raise _runaway(len(chats), f"{PROCESSOR_SECONDS} s of processor time")
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        if last and last[0].startswith("MemoryError"):
            raise _runaway(len(chats), f"{MEMORY_BYTES / 1e9:.0f} GB of memory")
        raise ConfigError(f"the chat template ended its process: {' '.join(last)}", _REMEDY)
    return [Rendering(**row) for row in json.loads(done.stdout)]


def _runaway(chats: int, bound: str) -> ConfigError:
    return ConfigError(
        f"the chat template needs more than {bound} for {chats} chats; expected milliseconds, "
        "since each row of the data and each question is rendered by it",
        _REMEDY,
    )


def render(template: str, variables: Mapping[str, Any], chats: Sequence[Chat]) -> list[Rendering]:
    """Return what a template makes of each chat, in this process: of one that is known to end."""
    try:
        compiled = template_environment().from_string(template)
    except TemplateError as error:
        return [Rendering("", str(error)) for _ in chats]
    return [_render(compiled, chat, variables) for chat in chats]


def _render(template: Any, chat: Chat, given: Mapping[str, Any]) -> Rendering:
    try:
        text = template.render(
            messages=chat.messages,
            add_generation_prompt=chat.is_asked,
            **{"tools": None, "documents": None, **given},
        )
    except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as why:
        return Rendering("", str(why) or type(why).__name__)
    if len(text) > _MOST_CHARACTERS:
        return Rendering("", f"its text has {len(text)} characters")
    return Rendering(text)


def main() -> None:
    """Render what stdin asks for, as JSON on stdout, within the bounds."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    chats = [Chat(tuple(map(tuple, turns)), is_asked) for turns, is_asked in asked["chats"]]
    found = render(asked["template"], asked["variables"], chats)
    json.dump([asdict(one) for one in found], sys.stdout)


if __name__ == "__main__":
    main()
