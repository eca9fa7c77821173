"""The rules as Great Expectations suites over flat frames of features, and what breaks them."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.records.record import Document, Record
from tasks.stage.errors import ConfigError
from tasks.validation.merging import Placed
from tasks.validation.params import ValidationParams

ROW = "row"
_ROLES = r"^(?:system )?(?:user assistant )*user assistant$"


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation: its name in reports, its class in Great Expectations and its arguments.

    `column` is None for a rule about the whole set.
    """

    name: str
    expectation: str
    column: str | None
    arguments: dict[str, object]

    @property
    def expected(self) -> str:
        """What the rule asks for, in a few words."""
        texts = [f"{name} {value!r}" for name, value in self.arguments.items()]
        return f"{self.name} ({', '.join(texts)})" if texts else self.name


@dataclass(frozen=True, slots=True)
class Breach:
    """What broke one rule: positions of rows with the values found, or a set with one value."""

    rule: Rule
    rows: dict[int, object]
    observed: object


class BrokenRuleError(ConfigError):
    """A rule itself failed to run: no word on the data."""


def record_rules(params: ValidationParams) -> list[Rule]:
    """What records must be."""
    return [
        Rule("enough_records", "ExpectTableRowCountToBeBetween", None, _least(params.min_records)),
        Rule("id_is_unique", "ExpectColumnValuesToBeUnique", "id", {}),
        _within("question_length", "question_characters", params.question_characters),
        _within("answer_length", "answer_characters", params.answer_characters),
        Rule("roles_take_turns", "ExpectColumnValuesToMatchRegex", "roles", {"regex": _ROLES}),
        _only_false("answer_differs_from_question", "answer_is_question"),
        _within("gold_documents_exist", "missing_documents", [0, 0]),
    ]


def document_rules(params: ValidationParams) -> list[Rule]:
    """What documents must be."""
    return [
        Rule("id_is_unique", "ExpectColumnValuesToBeUnique", "id", {}),
        _within("document_length", "text_characters", params.document_characters),
    ]


def _least(count: int) -> dict[str, object]:
    return {"min_value": count}


def _within(name: str, column: str, bounds: Sequence[int]) -> Rule:
    arguments: dict[str, object] = {"min_value": bounds[0], "max_value": bounds[1]}
    return Rule(name, "ExpectColumnValuesToBeBetween", column, arguments)


def _only_false(name: str, column: str) -> Rule:
    return Rule(name, "ExpectColumnValuesToBeInSet", column, {"value_set": [False]})


def record_features(rows: Sequence[Placed[Record]], documents: set[str]) -> pd.DataFrame:
    """One row a record: what the rules look at. `documents` are the ids of the good documents."""
    columns: dict[str, list[object]] = {
        ROW: list(range(len(rows))),
        "id": [row.value.id for row in rows],
        "question_characters": [len(_turn(row.value, -2)) for row in rows],
        "answer_characters": [len(_turn(row.value, -1)) for row in rows],
        "roles": [" ".join(item.role for item in row.value.messages) for row in rows],
        "answer_is_question": [_turn(row.value, -1) == _turn(row.value, -2) for row in rows],
        "missing_documents": [
            sum(name not in documents for name in row.value.documents) for row in rows
        ],
    }
    return pd.DataFrame(columns)


def document_features(rows: Sequence[Placed[Document]]) -> pd.DataFrame:
    """One row a document: what the rules look at."""
    columns: dict[str, list[object]] = {
        ROW: list(range(len(rows))),
        "id": [row.value.id for row in rows],
        "text_characters": [len(row.value.text.strip()) for row in rows],
    }
    return pd.DataFrame(columns)


def _turn(record: Record, position: int) -> str:
    messages = record.messages
    return messages[position].content.strip() if len(messages) >= -position else ""


def breaches(name: str, frame: pd.DataFrame, rules: Sequence[Rule], site: Path) -> list[Breach]:
    """What breaks the rules in a frame of features; Data Docs are written into `site`.

    Raises:
        BrokenRuleError: a rule failed to run.
    """
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site.resolve())}
    context.delete_data_docs_site("local_site")
    context.add_data_docs_site(
        name, {"class_name": "SiteBuilder", "store_backend": store, "show_how_to_buttons": False}
    )
    batches = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = batches.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for rule in rules:
        suite.add_expectation(_expectation(gx, rule))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    result = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ROW]},
    )
    context.build_data_docs(site_names=[name])
    return list(_broken(result, rules))


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read while it is imported
    # It logs hundreds of lines while it is imported, and one module sets a level of its own.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return great_expectations


def _expectation(gx: Any, rule: Rule) -> Any:
    cls = getattr(gx.expectations, rule.expectation)
    column = {} if rule.column is None else {"column": rule.column}
    return cls(**column, **rule.arguments, meta={"rule": rule.name})


def _broken(result: Any, rules: Sequence[Rule]) -> Iterator[Breach]:
    named = {rule.name: rule for rule in rules}
    for item in result.results:
        rule = named.pop(item.expectation_config.meta["rule"])
        trouble = _exception(item.exception_info)
        if trouble:
            raise BrokenRuleError(
                f"rule {rule.name} ({rule.expectation}) failed to run: {trouble}",
                "mend the rule; the data were not judged",
            )
        if item.success:
            continue
        found = item.result.get("unexpected_index_list") or []
        rows = {int(entry[ROW]): entry.get(rule.column) for entry in found}
        yield Breach(rule, rows, item.result.get("observed_value"))
    if named:
        raise BrokenRuleError(
            f"rules without a result: {', '.join(sorted(named))}", "mend the rules"
        )


def _exception(info: Any) -> str:
    """The message of an expectation's exception: either flat, or one a metric."""
    flat = info if "raised_exception" in info else None
    entries = [flat] if flat else list(info.values())
    messages = [str(entry["exception_message"]) for entry in entries if entry["raised_exception"]]
    return "; ".join(messages)
