"""A base's chat template bound to what params say of it: arguments, a clock, the system turn.

What is bound stands in front of the template itself, in Jinja, so that whatever renders it renders
the same: training, evaluation, our server, MLflow's, an exported folder, llama.cpp. A template that
needs none of it stays as it is, byte by byte.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Any

from jinja2 import nodes

from tasks.models.template_rendering import Chat, Rendering, parse_template, render_bounded
from tasks.stage.errors import ConfigError
from tasks.stage.params import TemplateParams

TEMPLATE_FILE = "chat_template.jinja"
_SETTINGS = "tokenizer_config.json"
_MORE_TEMPLATES = "additional_chat_templates"
_KEY = "chat_template"
_CLOCK = "strftime_now"
_HEADER = re.compile(r"\{# Nightloom binds in (\d+) lines: (\{.*\}) #\}\n")
# What every rendering brings by itself; the rest that a template asks for are its arguments.
_OWN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", _CLOCK}
)
_SYSTEM, _ASKED = "Answer in few words.", "Why is the sky blue?"
_MANY_TURNS = 500


def read_folder_template(folder: Path) -> str | None:
    """Return the chat template of a model folder, None where it has none.

    Raises:
        ConfigError: it has several, none of which is the default.
    """
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _settings(folder).get(_KEY)
    if isinstance(found, list):
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
    if isinstance(found, dict):
        if not isinstance(found.get("default"), str):
            raise ConfigError(
                f"{folder} has the chat templates {', '.join(map(str, found)) or 'none'}; expected "
                "one called default",
                f"write the one to use as {TEMPLATE_FILE} into the folder",
            )
        found = found["default"]
    return found if isinstance(found, str) else None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / _SETTINGS
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def special_tokens(folder: Path) -> dict[str, str]:
    """Return what a template knows of a folder's special tokens, such as `bos_token`."""
    named = _settings(folder)
    extra = folder / "special_tokens_map.json"
    if extra.is_file():
        named = json.loads(extra.read_text(encoding="utf-8")) | named
    found = {}
    for name, value in named.items():
        if name.endswith("_token") and not name.startswith("add_"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[name] = text
    return found


def bind_folder(folder: Path, params: TemplateParams | None) -> dict[str, Any] | None:
    """Bind the chat template in a model folder, and return what it was bound to.

    None where it needs nothing, and so stays as it is, or where there is none.

    Raises:
        ConfigError: the template can't be rendered, or not with these params.
    """
    found = read_folder_template(folder)
    if found is None:
        return None
    bound = bind_template(_unbound(found), params, special_tokens(folder))
    if bound == found:
        return bound_settings(bound)
    (folder / TEMPLATE_FILE).write_text(bound, encoding="utf-8")
    settings = _settings(folder)
    if settings.pop(_KEY, None) is not None:
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (folder / _SETTINGS).write_text(text, encoding="utf-8")
    for path in sorted((folder / _MORE_TEMPLATES).glob("*.jinja")):
        path.unlink()
    return bound_settings(bound)


def bound_settings(template: str) -> dict[str, Any] | None:
    """Return what a template says that it was bound to, None where it was not."""
    found = _HEADER.match(template)
    return None if found is None else dict(json.loads(found[2]))


def _unbound(template: str) -> str:
    """Return a template as it was before it was bound, such as that of an exported model."""
    found = _HEADER.match(template)
    if found is None:
        return template
    return template[found.end() :].split("\n", int(found[1]))[-1]


def reads_clock(template: str) -> bool:
    """Return whether a template asks for the time, which no bound one does.

    Raises:
        ConfigError: it is no template.
    """
    return _CLOCK in template and _CLOCK in _names(parse_template(template))


def _names(tree: nodes.Template) -> frozenset[str]:
    """Return the names that a template reads and does not define as a macro.

    Jinja's own search for them computes constants on its way.
    """
    read = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    return frozenset(read - {macro.name for macro in tree.find_all(nodes.Macro)})


def bind_template(
    template: str, params: TemplateParams | None, variables: Mapping[str, str]
) -> str:
    """Return a template with what params say of it in front of it.

    Without params it is bound to nothing, and must need nothing. `variables` are its special
    tokens.

    Raises:
        ConfigError: it can't be rendered, knows no such argument, or refuses what it must render.
    """
    asked = _names(parse_template(template)) - variables.keys()
    arguments = {} if params is None else dict(params.arguments)
    _check_arguments(arguments, asked - _OWN)
    told: dict[str, Any] = {"arguments": arguments} if arguments else {}
    lines = [f"{{% set {name} = {_literal(value)} %}}" for name, value in arguments.items()]
    if _CLOCK in asked:
        lines.append(_clock(template, params))
        told["clock"] = None if params is None else params.clock.isoformat()
    plain = _with_header(template, told, lines)
    if not _renders_system(plain, variables):
        folding = _folding(params)
        told["system"] = "fold"
        plain = _with_header(template, told, [*lines, folding])
    _check_renderings(plain, variables)
    return plain


def _with_header(template: str, told: Mapping[str, Any], lines: list[str]) -> str:
    """Return the template below its header, each line of which ends in a tag.

    Jinja drops the line feed after a tag, so that the template's own text begins a line as before.
    """
    if not told:
        return template
    said = json.dumps(told, ensure_ascii=True, sort_keys=True).replace("#}", "\\u0023}")
    header = f"{{# Nightloom binds in {len(lines)} lines: {said} #}}"
    return "\n".join([header, *lines, template])


def _check_arguments(arguments: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise ConfigError(
            f"models.base.template.arguments names {', '.join(unknown)}; the base's chat template "
            f"asks for {', '.join(sorted(known)) or 'no argument'}",
            "name these alone, or leave `arguments` empty ({})",
        )


def _literal(value: object) -> str:
    """Return a JSON value as Jinja writes it."""
    if isinstance(value, dict):
        pairs = (f"{_literal(key)}: {_literal(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, str):
        # As it is: llama.cpp's Jinja knows no \\u in a text, and no Jinja ends a tag inside one.
        return json.dumps(value, ensure_ascii=False)
    return {None: "none", True: "true", False: "false"}.get(value, json.dumps(value))  # type: ignore[call-overload,no-any-return]


def _clock(template: str, params: TemplateParams | None) -> str:
    """Return the macro that takes the clock's place: the texts of all forms that are asked for."""
    if params is None:
        raise ConfigError(
            "the base's chat template asks for today's date, and models.base.template is null: "
            "tomorrow the model would be asked otherwise than it was trained",
            'write models.base.template with a `clock`, such as "2025-01-01"',
        )
    now = datetime.combine(params.clock, time())
    called = parse_template(template).find_all(nodes.Call)
    forms = {
        str(call.args[0].value)
        for call in called
        if isinstance(call.node, nodes.Name)
        and call.node.name == _CLOCK
        and call.args
        and isinstance(call.args[0], nodes.Const)
    }
    texts = _literal({form: now.strftime(form) for form in sorted(forms)})
    unknown = "raise_exception('the clock is fixed, and not in this form: ' ~ format)"
    return (
        f"{{% macro {_CLOCK}(format) %}}{{{{ {texts}[format] if format in {texts} else {unknown} "
        "}}{% endmacro %}"
    )


def _renders_system(template: str, variables: Mapping[str, str]) -> bool:
    """Return whether a system turn stands somewhere in what the template makes of one.

    It must stand there when the answer does, too: some templates then leave it out.
    """
    turns = (("system", _SYSTEM), ("user", _ASKED), ("assistant", _SYSTEM[::-1]))
    chats = (Chat(turns[1:2]), Chat(turns[:2]), Chat(turns, is_asked=False))
    alone, *found = render_bounded(template, variables, chats)
    if alone.refusal is not None:
        raise _refused(chats[0], alone)
    return all(one.refusal is None and _SYSTEM in one.text for one in found)


def _folding(params: TemplateParams | None) -> str:
    """Return what puts a system turn's text above the first user turn's."""
    if params is None or params.system == "refuse":
        raise ConfigError(
            "the base's chat template renders no system turn, and every prompt of "
            "tokenization.template begins with one",
            "set models.base.template.system: fold, which puts its text above the first question, "
            "or take another base",
        )
    first = "messages[0]['content']"
    both = f"{first} + '\\n\\n' + messages[1]['content']"
    return (
        "{% if messages[0]['role'] == 'system' %}"
        "{% if messages[1:] and messages[1]['role'] == 'user' %}"
        f"{{% set messages = [{{'role': 'user', 'content': {both}}}] + messages[2:] %}}"
        "{% else %}"
        f"{{% set messages = [{{'role': 'user', 'content': {first}}}] + messages[1:] %}}"
        "{% endif %}{% endif %}"
    )


def _check_renderings(template: str, variables: Mapping[str, str]) -> None:
    """Check that a template renders the chats that nights are made of, and each of their turns."""
    turns = [("system", _SYSTEM)]
    for number in range(_MANY_TURNS // 2):
        turns += [("user", f"Question {number}?"), ("assistant", f"Answer {number}.")]
    chats = (
        Chat(tuple(turns[:2])),
        Chat(tuple(turns[:3]), is_asked=False),
        Chat(tuple(turns[:4])),
        Chat(tuple(turns[:5]), is_asked=False),
        Chat(tuple(turns), is_asked=False),
    )
    for chat, found in zip(chats, render_bounded(template, variables, chats), strict=True):
        if found.refusal is not None:
            raise _refused(chat, found)
        for role, text in chat.turns:
            if text not in found.text:
                raise ConfigError(
                    f"the chat template leaves out or changes the {role} turn of a chat with the "
                    f"roles {_roles(chat)}",
                    "use a base whose chat template renders system, user and assistant turns",
                )


def _refused(chat: Chat, found: Rendering) -> ConfigError:
    return ConfigError(
        f"the chat template refuses a chat with the roles {_roles(chat)}: {found.refusal}",
        "give what it asks for in models.base.template.arguments, or take another base",
    )


def _roles(chat: Chat) -> str:
    named = [role for role, _ in chat.turns[:5]]
    return ", ".join(named) + (f" and {len(chat.turns) - 5} more" if len(chat.turns) > 5 else "")
