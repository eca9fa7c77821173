"""The params of ingestion: where rows come from and what is read of them."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.records.columns import TEXT_COLUMNS
from tasks.stage.params import StageParams


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


class IngestionParams(StageParams):
    """`params/ingestion.yaml`."""

    source: Literal["python_docs", "files", "hub", "sql"]
    packages: list[str] = Field(description="importable packages; stdlib is the standard library")
    document_characters: int = Field(ge=100, description="longest text made of one docstring")
    unanswerable_share: float = Field(ge=0, le=0.5, description="share of the records made")
    limit: int | None = Field(ge=1, description="most records taken in, chosen by hashed id")
    longest_line_bytes: int = Field(
        ge=1000, le=1_000_000_000, description="longer ones are refused"
    )
    files: FilesParams
    hub: HubParams
    sql: SqlParams
    columns: ColumnsParams
    missing: Literal["keep", "withdraw"] = Field(
        description="what becomes of rows that the source no longer has, once it was read whole"
    )
    max_missing_share: float = Field(
        ge=0, le=1, description="more of the source's rows missing refuse the night"
    )

    @model_validator(mode="after")
    def _source_is_given(self) -> "IngestionParams":
        if self.source == "python_docs" and not self.packages:
            raise ValueError("source is python_docs: packages must name at least one")
        if self.source == "files" and not self.files.records:
            raise ValueError("source is files: files.records must name at least one")
        if self.source == "hub" and not (self.hub.name and self.hub.revision):
            raise ValueError("source is hub: hub.name and hub.revision must be given")
        if self.source == "sql":
            self._check_sql()
        if self.missing == "withdraw" and self._reads_increments():
            raise ValueError(
                "missing: withdraw needs a source that is read whole every night; a query with "
                "`since` gives only what is new: set sql.records.since and sql.documents.since to "
                "null, or missing to keep"
            )
        return self

    def _reads_increments(self) -> bool:
        """Return whether nights ask this source only for what is new."""
        since = (self.sql.records.since, self.sql.documents.since)
        return self.source == "sql" and any(name is not None for name in since)

    def _check_sql(self) -> None:
        """Check that the params of the database go together."""
        sql = self.sql
        if (sql.url is None) == (sql.url_variable is None):
            raise ValueError("source is sql: give one of sql.url and sql.url_variable")
        if sql.records.query is None:
            raise ValueError("source is sql: sql.records.query must be given")
        if self.limit is not None and (sql.records.since or sql.documents.since):
            raise ValueError(
                "limit and since don't go together: rows beyond the limit would never be asked "
                "for again"
            )
