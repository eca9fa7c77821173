"""The source that an entry of params asks for."""

from collections.abc import Mapping, Sequence

from tasks.ingestion.params import QueryParams, SourceParams
from tasks.ingestion.sources.feedback import FeedbackSource
from tasks.ingestion.sources.files import FilesSource
from tasks.ingestion.sources.hub import HubSource
from tasks.ingestion.sources.python_docs import PackagesSource
from tasks.ingestion.sources.source import Kind, Mark, Source
from tasks.records.columns import Columns
from tasks.records.text_files import TextFormat
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError


def open_source(
    params: SourceParams,
    longest: int,
    earlier: Sequence[Mapping[Kind, Mark]],
    stores: Stores | None,
) -> Source:
    """Open a source of which no line is longer than `longest` bytes.

    `earlier` are its marks in the intakes so far, oldest first. `stores` are MLflow's, which
    feedback alone is read from.

    Raises:
        ConfigError: the params name no place that can be read.
        DataError: a file is missing or lies where it must not.
    """
    match params.kind:
        case "python_docs":
            docs = params.python_docs
            return PackagesSource(
                docs.packages,
                document_characters=docs.document_characters,
                unanswerable_share=docs.unanswerable_share,
            )
        case "files":
            return _files(params, longest)
        case "hub":
            return _hub(params, longest)
        case "sql":
            return _sql(params, longest, earlier)
        case "feedback":
            return _feedback(stores)


def _columns(params: SourceParams) -> dict[Kind, Columns]:
    columns = params.columns
    as_text = frozenset(columns.as_text)
    return {
        "records": Columns(columns.records, as_text),
        "documents": Columns(columns.documents, as_text),
    }


def _files(params: SourceParams, longest: int) -> Source:
    names: dict[Kind, Sequence[str]] = {
        "records": params.files.records,
        "documents": params.files.documents,
    }
    files = params.files
    form = TextFormat(files.encoding, files.delimiter, files.json_lines)
    return FilesSource(files.root, names, _columns(params), form, longest)


def _hub(params: SourceParams, longest: int) -> Source:
    hub = params.hub
    return HubSource(
        name=str(hub.name),
        config=hub.config,
        revision=str(hub.revision),
        splits={"records": hub.split, "documents": hub.documents_split},
        columns=_columns(params),
        longest=longest,
    )


def _sql(params: SourceParams, longest: int, earlier: Sequence[Mapping[Kind, Mark]]) -> Source:
    # These import SQLAlchemy: 0.3 s.
    from tasks.ingestion.sources.sql import Query, SqlSource, read_url

    sql = params.sql
    asked: dict[Kind, QueryParams] = {"records": sql.records, "documents": sql.documents}
    queries = {
        kind: Query(item.query, item.since)
        for kind, item in asked.items()
        if item.query is not None
    }
    url = read_url(sql.url, sql.url_variable)
    return SqlSource(url, queries, _columns(params), longest, earlier)


def _feedback(stores: Stores | None) -> Source:
    if stores is None:
        raise ConfigError(
            "feedback lies in MLflow, and this was called without its stores",
            "run the night by `nightloom run`, which knows them, or give `take_in` its `stores`",
        )
    return FeedbackSource(stores)
