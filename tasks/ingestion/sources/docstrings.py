"""Prints the documented public names of importable packages, one JSON object a line.

Run as a script in a process of its own, because importing a package may do anything: open a window,
print, change the locale. So it uses the standard library alone and keeps the real stdout to itself.
"""

import contextlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

STANDARD_LIBRARY = "stdlib"
# Left out: they open a browser or a window, print, hold tests, or are half of another module.
_UNWANTED = """
    antigravity this idlelib tkinter turtle turtledemo test lib2to3 pydoc_data ensurepip
    posix nt posixpath ntpath genericpath sre_compile sre_constants sre_parse
"""
# Left out as well: deprecated and gone from later versions (PEP 594, PEP 632).
_DEPRECATED = """
    aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp mailcap msilib nis
    nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""
_SKIPPED = frozenset((_UNWANTED + _DEPRECATED).split())
_SKIPPED_PARTS = frozenset(["tests", "test", "conftest", "distutils", "setup"])
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_LONGEST_DEFAULT = 40
_LOCAL_FOLDERS = sorted(
    {str(Path.home()), str(Path.cwd()), *map(sysconfig.get_path, ("stdlib", "purelib", "scripts"))},
    key=lambda folder: (-len(folder), folder),
)


@dataclass(frozen=True)
class Documented:
    """A public name with its docstring; `signature` and `parameters` are None where unknown."""

    name: str
    owner: str
    kind: str
    signature: str | None
    bare_signature: str | None
    parameters: list[str] | None
    docstring: str


@dataclass(frozen=True)
class _Found:
    """One place where an object was seen; places compare by how good a name they give."""

    rank: tuple[bool, int, int, str]
    name: str
    owner: str
    kind: str
    value: object
    is_bound: bool


def modules_of(package: str) -> dict[str, ModuleType]:
    """Return the public modules of a package that can be imported here, in the order of names."""
    if package == STANDARD_LIBRARY:
        roots = sorted(n for n in sys.stdlib_module_names if not n.startswith("_"))
    else:
        roots = [package]
    modules: dict[str, ModuleType] = {}
    for root in roots:
        if root not in _SKIPPED:
            modules |= _import_tree(root)
    if package == STANDARD_LIBRARY:
        modules["os.path"] = os.path
    return {name: modules[name] for name in sorted(modules)}


def _import_tree(name: str) -> dict[str, ModuleType]:
    """Import a module and the public modules below it, by name; those that fail are left out."""
    try:
        module = importlib.import_module(name)
    except BaseException:  # noqa: BLE001  (a module may even call sys.exit)
        return {}
    found = {name: module}
    for child in sorted(
        item.name for item in pkgutil.iter_modules(getattr(module, "__path__", []))
    ):
        if not child.startswith("_") and child not in _SKIPPED_PARTS:
            found |= _import_tree(f"{name}.{child}")
    return found


def public_names(modules: dict[str, ModuleType]) -> set[str]:
    """Return every public name below the modules, documented or not, two levels into classes."""
    names: set[str] = set()
    for module_name, module in modules.items():
        prefix = _prefix(module_name)
        names.add(module_name)
        for name in dir(module):
            names.add(prefix + name)
            value = _attribute(module, name)
            if isinstance(value, type):
                names |= {f"{prefix}{name}.{member}" for member in dir(value)}
    return names


def documented_names(modules: dict[str, ModuleType]) -> list[Documented]:
    """Return each documented function, class and method once, sorted by its best public name."""
    best: dict[int, _Found] = {}
    for module_name, module in modules.items():
        for found in _members(module_name, module):
            known = best.get(id(found.value))
            if known is None or found.rank < known.rank:
                best[id(found.value)] = found
    methods: dict[int, _Found] = {}
    for owner in best.values():
        if isinstance(owner.value, type):
            for found in _methods(owner.value, owner.name):
                known = methods.get(id(found.value))
                if known is None or found.rank < known.rank:
                    methods[id(found.value)] = found
    chosen = {found.name: found for found in [*methods.values(), *best.values()]}
    return [_described(chosen[name]) for name in sorted(chosen) if _docstring(chosen[name].value)]


def _prefix(module: str) -> str:
    return "" if module == "builtins" else f"{module}."


def _attribute(owner: object, name: str) -> object:
    try:
        return getattr(owner, name)
    except BaseException:  # noqa: BLE001  (a lazy attribute may import, and fail, as it likes)
        return None


def _members(module_name: str, module: ModuleType) -> Iterator[_Found]:
    """Yield the functions and classes that a module offers as its own."""
    listed = set(getattr(module, "__all__", ()))
    root = module_name.partition(".")[0]
    for name in sorted(vars(module).keys() | listed):
        value = _attribute(module, name)
        if name.startswith("_") or not (isinstance(value, type) or inspect.isroutine(value)):
            continue
        home = str(getattr(value, "__module__", None) or "").partition(".")[0].lstrip("_")
        if name not in listed if listed else home != root:
            continue
        full = _prefix(module_name) + name
        kind = "class" if isinstance(value, type) else "function"
        yield _Found(_rank(full, home == root), full, module_name, kind, value, False)


def _methods(owner: type, owner_name: str) -> Iterator[_Found]:
    """Yield the public methods that a class itself defines."""
    for name, raw in sorted(vars(owner).items()):
        value = getattr(raw, "__func__", raw)
        if name.startswith("_") or not inspect.isroutine(value):
            continue
        full = f"{owner_name}.{name}"
        bound = not isinstance(raw, staticmethod)
        yield _Found(_rank(full, True), full, owner_name, "method", value, bound)


def _rank(name: str, is_home: bool) -> tuple[bool, int, int, str]:
    return (not is_home, name.count("."), len(name), name)


def _docstring(value: object) -> str:
    is_class = isinstance(value, type)  # whose docstring could be inherited
    text = vars(value).get("__doc__") if is_class else _attribute(value, "__doc__")
    return inspect.cleandoc(text).strip() if isinstance(text, str) else ""


def _described(found: _Found) -> Documented:
    signature = _signature(found)
    return Documented(
        found.name,
        found.owner,
        found.kind,
        None if signature is None else _portable(str(signature)),
        None if signature is None else _portable(str(_without_defaults(signature))),
        None if signature is None else [_starred(p) for p in signature.parameters.values()],
        _portable(_docstring(found.value)),
    )


def _signature(found: _Found) -> inspect.Signature | None:
    """Return the signature as a caller sees it: no self, no annotations, no long defaults."""
    try:
        parameters = list(inspect.signature(found.value).parameters.values())  # type: ignore[arg-type]
        if found.is_bound:
            parameters = parameters[1:]
        return inspect.Signature([_plain(item) for item in parameters])
    except BaseException:  # noqa: BLE001  (a property read on the way may raise anything)
        return None


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    if default is not inspect.Parameter.empty:
        text = repr(default)
        shown = _portable(text)
        is_local = "..." in shown and "..." not in text
        default = _Shown("..." if is_local or len(shown) > _LONGEST_DEFAULT else shown)
    return parameter.replace(annotation=inspect.Parameter.empty, default=default)


def _starred(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    stars = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
    return stars + parameter.name


def _without_defaults(signature: inspect.Signature) -> inspect.Signature:
    empty = inspect.Parameter.empty
    return inspect.Signature([p.replace(default=empty) for p in signature.parameters.values()])


class _Shown:
    """A default value that prints as the given text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _portable(text: str) -> str:
    """Return the text without what differs between machines: addresses and local folders."""
    for folder in _LOCAL_FOLDERS:
        text = text.replace(folder, "...")
    return _ADDRESS.sub("", text)


def main(packages: list[str]) -> None:
    """Print a line for each documented name, then one with every public name of each package."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for package in packages:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            modules = modules_of(package)
            documented = documented_names(modules)
            names = sorted(public_names(modules))
        for item in documented:
            print(json.dumps(asdict(item) | {"package": package}), file=out)
        print(json.dumps({"package": package, "names": names}), file=out)
    out.flush()
    os._exit(0)  # exit handlers of what was imported are none of our business


if __name__ == "__main__":
    main(sys.argv[1:])
