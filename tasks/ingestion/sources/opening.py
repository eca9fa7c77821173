"""The source that params ask for."""

from collections.abc import Mapping, Sequence

from tasks.ingestion.params import IngestionParams
from tasks.ingestion.sources.files import FilesSource
from tasks.ingestion.sources.hub import HubSource
from tasks.ingestion.sources.python_docs import PackagesSource
from tasks.ingestion.sources.source import Kind, Mark, Source
from tasks.records.columns import Columns
from tasks.records.text_files import TextFormat


def open_source(params: IngestionParams, earlier: Sequence[Mapping[Kind, Mark]]) -> Source:
    """Open the source; `earlier` are the marks of the intakes so far, oldest first.

    Raises:
        ConfigError: the params name no place that can be read.
        DataError: a file is missing or lies where it must not.
    """
    match params.source:
        case "python_docs":
            return PackagesSource(
                params.packages,
                document_characters=params.document_characters,
                unanswerable_share=params.unanswerable_share,
            )
        case "files":
            return _files(params)
        case "hub":
            return _hub(params)
        case "sql":
            return _sql(params, earlier)


def _columns(params: IngestionParams) -> dict[Kind, Columns]:
    columns = params.columns
    as_text = frozenset(columns.as_text)
    return {
        "records": Columns(columns.records, as_text),
        "documents": Columns(columns.documents, as_text),
    }


def _files(params: IngestionParams) -> Source:
    names: dict[Kind, Sequence[str]] = {
        "records": params.files.records,
        "documents": params.files.documents,
    }
    files = params.files
    form = TextFormat(files.encoding, files.delimiter, files.json_lines)
    return FilesSource(files.root, names, _columns(params), form, params.longest_line_bytes)


def _hub(params: IngestionParams) -> Source:
    hub = params.hub
    return HubSource(
        name=str(hub.name),
        config=hub.config,
        revision=str(hub.revision),
        splits={"records": hub.split, "documents": hub.documents_split},
        columns=_columns(params),
        longest=params.longest_line_bytes,
    )


def _sql(params: IngestionParams, earlier: Sequence[Mapping[Kind, Mark]]) -> Source:
    # These import SQLAlchemy: 0.3 s.
    from tasks.ingestion.sources.sql import Query, SqlSource, read_url

    sql = params.sql
    queries: dict[Kind, Query] = {"records": Query(str(sql.records.query), sql.records.since)}
    if sql.documents.query is not None:
        queries["documents"] = Query(sql.documents.query, sql.documents.since)
    url = read_url(sql.url, sql.url_variable)
    return SqlSource(url, queries, _columns(params), params.longest_line_bytes, earlier)
