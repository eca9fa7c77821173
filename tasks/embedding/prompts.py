"""Texts that an embedder wants before a question and before a passage, and how they are known.

Params name them, else the embedder's own files. Of families whose files name none, what they were
trained with is known by their name: it is told, and never used unasked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import regex

from tasks.embedding.pooling import named_pooling
from tasks.models.manifest import ModelManifest
from tasks.stage.params import Pooling

Purpose = Literal["query", "passage"]
CONFIG_FILE = "config_sentence_transformers.json"
_PASSAGE_NAMES = ("document", "passage", "corpus")  # as sentence-transformers' encode_document


@dataclass(frozen=True)
class Prompts:
    """What stands before a question, before a passage, and before a text that is neither."""

    query: str = ""
    passage: str = ""
    other: str = ""

    def of(self, purpose: Purpose | None) -> str:
        """Return the prompt of texts that are embedded for a purpose."""
        if purpose is None:
            return self.other
        return self.query if purpose == "query" else self.passage


@dataclass(frozen=True)
class _Family:
    """What embedders with a certain name were trained with, by their authors' model cards."""

    name: regex.Pattern[str]
    query: str
    passage: str
    pooling: Pooling


def _family(name: str, query: str, passage: str, pooling: Pooling) -> _Family:
    return _Family(regex.compile(name, regex.IGNORECASE), query, passage, pooling)


_SEARCH = "Represent this sentence for searching relevant passages: "
_INSTRUCT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
# The first that fits counts.
_FAMILIES = (
    _family(r"e5-mistral", f"{_INSTRUCT} ", "", "lasttoken"),
    _family(r"e5-.*instruct", f"{_INSTRUCT} ", "", "mean"),
    _family(r"(^|[-_/])(ko)?e5($|[-_])", "query: ", "passage: ", "mean"),
    _family(r"qwen3-embedding", _INSTRUCT, "", "lasttoken"),
    _family(r"bge-(small|base|large)-en", _SEARCH, "", "cls"),
    _family(r"bge-(small|base|large)-zh", "为这个句子生成表示以用于检索相关文章：", "", "cls"),
    _family(r"bge-m3|kure-v1", "", "", "cls"),
    _family(r"arctic-embed.*v2", "query: ", "", "cls"),
    _family(r"arctic-embed|mxbai-embed", _SEARCH, "", "cls"),
    _family(r"nomic-embed-text", "search_query: ", "search_document: ", "mean"),
    _family(r"embedding-?gemma", "task: search result | query: ", "title: none | text: ", "mean"),
)


def read_prompts(manifest: ModelManifest, folder: Path) -> Prompts:
    """Return the prompts of an embedder whose files lie in a folder.

    Each is the one that params gave; else, of the files' prompts, the one of its name; else, where
    neither of the two has a text there, their default, if they have one.
    """
    path = folder / CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    named = {name: text or "" for name, text in (content.get("prompts") or {}).items()}
    other = named.get(content.get("default_prompt_name") or "", "")
    query = named.get("query")
    passage = next((named[name] for name in _PASSAGE_NAMES if named.get(name)), None)
    if not query and not passage:
        query = passage = other
    return Prompts(
        query=_given(manifest.query_prompt, query),
        passage=_given(manifest.passage_prompt, passage),
        other=other,
    )


def _given(by_params: str | None, by_files: str | None) -> str:
    return (by_files or "") if by_params is None else by_params


def lacks(manifest: ModelManifest, store: Path) -> str | None:
    """Return what an embedder was trained with and is used without, in a sentence; None if nothing
    is known to be amiss.

    Prompts that params give, be they empty, are taken as meant.
    """
    family = next((one for one in _FAMILIES if one.name.search(manifest.name)), None)
    if family is None:
        return None
    folder = manifest.folder(store)
    used, said = read_prompts(manifest, folder), []
    pairs = (("query", family.query), ("passage", family.passage))
    for name, trained in pairs:
        given = getattr(manifest, f"{name}_prompt")
        if trained and given is None and not used.of("query" if name == "query" else "passage"):
            said.append(f"{name}_prompt: {json.dumps(trained, ensure_ascii=False)}")
    if manifest.pooling is None and named_pooling(folder) is None and family.pooling != "mean":
        said.append(f"pooling: {family.pooling}")
    if not said:
        return None
    return (
        f"The embedder {manifest.name} was trained with what neither its files nor params name, "
        f"and finds less without. Write into params/models.yaml, under embedder: {'; '.join(said)}."
    )
