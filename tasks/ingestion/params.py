"""The params of ingestion: the sources that rows come from, and what is read of each."""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from tasks.ingestion.sources.source import Kind
from tasks.records.columns import TEXT_COLUMNS
from tasks.stage.errors import ConfigError, without_password
from tasks.stage.params import StageParams

# Each but feedback, which lies in MLflow, has a section of its name that says where it reads.
SourceKind = Literal["python_docs", "files", "hub", "sql", "feedback"]
# Their rows have our columns, whatever `columns` says of others.
_OURS = ("python_docs", "feedback")


class PythonDocsParams(StageParams):
    """Installed packages, whose docstrings are asked about."""

    packages: list[str] = Field(description="importable packages; stdlib is the standard library")
    document_characters: int = Field(ge=100, description="longest text made of one docstring")
    unanswerable_share: float = Field(ge=0, le=0.5, description="share of the records made")


class FilesParams(StageParams):
    """Files to read; relative names count from `root`, and all of them lie below it."""

    root: str = Field(min_length=1, description="a folder; a relative one counts from where we run")
    records: list[str]
    documents: list[str]
    encoding: str | None = Field(description="null: UTF-8, or UTF-16 by its mark")
    delimiter: str | None = Field(
        pattern=r"^(?:\t|[^\w\s\"])$", description="one sign; null: a comma, in .tsv a tab"
    )
    json_lines: bool = Field(description="one JSON object a line; false: laid out otherwise")

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        try:
            "a".encode(name or "utf-8")  # not all codecs are encodings of texts: base64 is not
        except LookupError:
            raise ValueError(
                "no encoding of texts that Python knows; write e.g. cp949, euc-kr, shift_jis, "
                "gb18030 or cp1252"
            ) from None
        return name


class HubParams(StageParams):
    """A data set on the Hugging Face hub; `documents_split` is null where it has no documents."""

    name: str | None
    config: str | None
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$", description="a commit, 40 hex digits")
    split: str
    documents_split: str | None


class QueryParams(StageParams):
    """A query, and the column of its result that only grows, null where none does."""

    query: str | None = Field(min_length=1)
    since: str | None = Field(min_length=1)


class SqlParams(StageParams):
    """A database: its URL, or the name of the environment variable that holds it."""

    url: str | None = Field(min_length=1)
    url_variable: str | None = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    records: QueryParams
    documents: QueryParams


class ColumnsParams(StageParams):
    """Their column's name -> ours; `as_text` are ours whose numbers and booleans become text."""

    records: dict[str, str]
    documents: dict[str, str]
    as_text: list[str]

    @field_validator("as_text")
    @classmethod
    def _as_text_is_ours(cls, names: list[str]) -> list[str]:
        if strange := sorted(set(names) - TEXT_COLUMNS):
            raise ValueError(
                f"{', '.join(strange)}: none of our columns that hold a text (the names that "
                f"`records` and `documents` map to): {', '.join(sorted(TEXT_COLUMNS))}"
            )
        return names


class SourceDefaults(StageParams):
    """What a source is read with where its own entry says nothing else."""

    weight: float | None = Field(gt=0, le=1e6, description="its part of the training token budget")
    license: str | None = Field(min_length=1, description="of rows that name none")
    limit: int | None = Field(ge=1, description="most records taken in, chosen by hashed id")
    id_prefix: str | None = Field(min_length=1, description="put before the ids of its rows")
    on_failure: Literal["fail", "skip"]
    python_docs: PythonDocsParams
    files: FilesParams
    hub: HubParams
    sql: SqlParams
    columns: ColumnsParams
    missing: Literal["keep", "withdraw"] = Field(
        description="what becomes of rows that it no longer has, once it was read whole"
    )
    max_missing_share: float = Field(
        ge=0, le=1, description="more of its rows missing refuse the night"
    )


class SourceParams(SourceDefaults):
    """One source, whole: its entry over the defaults."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$",
        description="lower-case letters, digits, dashes and underscores; rows are known by it",
    )
    kind: SourceKind

    @property
    def mapped_columns(self) -> dict[Kind, dict[str, str]]:
        """Return their names of the columns that are renamed, with ours."""
        if self.kind in _OURS:
            return {"records": {}, "documents": {}}
        return {"records": self.columns.records, "documents": self.columns.documents}

    @property
    def gives_records(self) -> bool:
        """Whether records are read from it; one with documents alone gives none."""
        match self.kind:
            case "files":
                return bool(self.files.records)
            case "sql":
                return self.sql.records.query is not None
        return True

    @property
    def gives_documents(self) -> bool:
        """Whether documents are read from it."""
        match self.kind:
            case "files":
                return bool(self.files.documents)
            case "sql":
                return self.sql.documents.query is not None
            case "hub":
                return self.hub.documents_split is not None
            case "feedback":
                return False
        return True

    @model_validator(mode="after")
    def _place_is_given(self) -> Self:
        missing = {
            "python_docs": None if self.python_docs.packages else "python_docs.packages",
            "files": None if self._gives_rows else "files.records or files.documents",
            "hub": None if self.hub.name and self.hub.revision else "hub.name and hub.revision",
            "sql": None if self._gives_rows else "sql.records.query or sql.documents.query",
        }.get(self.kind)
        if missing is not None:
            raise ValueError(f"source {self.name} is of kind {self.kind}: it must give {missing}")
        if self.kind == "sql":
            self._check_sql()
        if self.missing == "withdraw" and (why := self._shows_a_part()):
            raise ValueError(
                f"source {self.name}: missing: withdraw needs a source that shows all of its rows "
                f"every night; {why}; or set `missing: keep` in its entry"
            )
        return self

    @property
    def _gives_rows(self) -> bool:
        return self.gives_records or self.gives_documents

    def _shows_a_part(self) -> str | None:
        """Return why a row that is not offered may still be there; None where it can't."""
        if self.kind == "feedback":
            return "of feedback old traces are deleted, and their rows stay"
        since = (self.sql.records.since, self.sql.documents.since)
        if self.kind == "sql" and any(name is not None for name in since):
            return (
                "a query with `since` gives only what is new: set sql.records.since and "
                "sql.documents.since to null"
            )
        return None

    def _check_sql(self) -> None:
        """Check that the params of the database go together."""
        sql = self.sql
        if (sql.url is None) == (sql.url_variable is None):
            raise ValueError(f"source {self.name}: give one of sql.url and sql.url_variable")
        if self.limit is not None and (sql.records.since or sql.documents.since):
            raise ValueError(
                f"source {self.name}: limit and since don't go together: rows beyond the limit "
                "would never be asked for again"
            )


class IngestionParams(StageParams):
    """`params/ingestion.yaml`."""

    sources: list[SourceParams] = Field(min_length=1)
    source_defaults: SourceDefaults
    longest_line_bytes: int = Field(
        ge=1000, le=1_000_000_000, description="longer ones are refused"
    )

    @property
    def weights(self) -> dict[str, float]:
        """Return each source's weight; none where rows share the budget as they come."""
        named = {source.name: source.weight for source in self.sources}
        weights = {name: weight for name, weight in named.items() if weight is not None}
        return weights if len(self.sources) > 1 else {}

    @model_validator(mode="before")
    @classmethod
    def _entries_are_whole(cls, content: Any) -> Any:
        """Return the content with each entry laid over the defaults.

        Raises:
            ConfigError: the params are those of before there were several sources.
        """
        if not isinstance(content, Mapping):
            return content
        if "source" in content and "sources" not in content:
            raise _outdated(content)
        entries, defaults = content.get("sources"), content.get("source_defaults")
        if not isinstance(entries, list) or not isinstance(defaults, Mapping):
            return content
        return {**content, "sources": [_merged(defaults, entry) for entry in entries]}

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: two are named {twice[0]}; rows are known by the name")
        if not any(source.gives_records for source in self.sources):
            raise ValueError(f"sources: none of {', '.join(names)} gives records")
        if 0 < len(self.weights) < len(names):
            bare = next(name for name in names if name not in self.weights)
            raise ValueError(
                f"sources: {', '.join(self.weights)} has a weight and {bare} has none; give every "
                "source one, or none of them"
            )
        return self


def _merged(defaults: Mapping[str, Any], entry: Any) -> Any:
    """Return an entry over the defaults, section by section.

    Raises:
        ValueError: it has a section of another kind, or columns, which nothing would read.
    """
    if not isinstance(entry, Mapping):
        return entry
    others = sorted(set(get_args(SourceKind)) & entry.keys() - {entry.get("kind")})
    if others:
        raise ValueError(
            f"source {entry.get('name')} is of kind {entry.get('kind')} and has a section "
            f"{others[0]}, which it does not read"
        )
    if "columns" in entry and entry.get("kind") in _OURS:
        raise ValueError(
            f"source {entry.get('name')} is of kind {entry.get('kind')}, whose rows have our "
            "columns: it does not read `columns`"
        )
    return _over(defaults, entry)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings in which what is above counts."""
    found = dict(below)
    for name, value in above.items():
        old = found.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[name] = _over(old, value) if both else value  # type: ignore[arg-type]
    return found


def _outdated(content: Mapping[str, Any]) -> ConfigError:
    """Return how params of a time when there was one source are written now."""
    kind = content["source"]
    entry: dict[str, Any] = {"name": kind, "kind": kind, "limit": content.get("limit")}
    if kind == "python_docs":
        entry[kind] = {name: content.get(name) for name in PythonDocsParams.model_fields}
    else:
        entry |= {kind: content.get(str(kind)), "columns": content.get("columns")}
    text = yaml.safe_dump(
        {"sources": [_given(entry)]}, sort_keys=False, allow_unicode=True, width=1000
    )
    return ConfigError(
        f"params/ingestion.yaml names one source ({kind}); a night reads a list of them now. Yours "
        f"is written:\n{without_password(text).rstrip()}",
        "write this in place of the `sources` that the file has in this version of Nightloom, and "
        "leave the rest of that file as it is",
    )


def _given(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what nested mappings hold beside nulls and empty lists."""
    found = {
        name: _given(value) if isinstance(value, Mapping) else value
        for name, value in section.items()
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}
