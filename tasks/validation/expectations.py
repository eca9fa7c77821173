"""Great Expectations: rules become expectations, frames become results, added up and rendered."""

import html
import logging
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.stage.errors import ConfigError
from tasks.validation.suites import Rule, Suite, nearest

# These look at other rows of the batch, so what they say would depend on where batches end.
_ACROSS_ROWS = {
    "expect_column_values_to_be_unique": "ask for id_rows (at most 1) instead",
    "expect_compound_columns_to_be_unique": "ask for id_rows (at most 1) instead",
    "expect_column_values_to_be_increasing": "rows have no order here",
    "expect_column_values_to_be_decreasing": "rows have no order here",
}

# Fields of every expectation that are no arguments of a rule.
_NOT_KWARGS = {"id", "meta", "notes", "description", "severity", "result_format"}

_NOT_KWARGS |= {"rendered_content", "catch_exceptions", "windows", "batch_id", "expectation_id"}


class BrokenRuleError(ConfigError):
    """A rule itself failed to run: no word on the data."""


@dataclass(frozen=True)
class RuleResult:
    """What GX says of one rule in one frame: all of it, and the positions of the rows at fault."""

    rule: Rule
    rows: list[int]
    result: Any


class SuiteRunner:
    """A suite in Great Expectations, asked about one frame after another."""

    def __init__(self, suite: Suite) -> None:
        """Build the suite.

        Raises:
            ConfigError: GX knows no such expectation, or not with these arguments.
        """
        gx = great_expectations()
        self.suite = suite
        context = gx.get_context(mode="ephemeral")
        bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
        context.variables.progress_bars = bars
        asset = context.data_sources.add_pandas(suite.name).add_dataframe_asset(suite.name)
        self._batches = asset.add_batch_definition_whole_dataframe("all")
        self._rules = {rule.name: rule for rule in suite.rules}
        expectations = [_expectation(rule, suite.name) for rule in suite.rules]
        self._suite = gx.ExpectationSuite(name=suite.name, expectations=expectations)

    def run(self, frame: pd.DataFrame) -> list[RuleResult]:
        """Return what GX says of every rule, in the suite's order.

        `frame` has a plain index from 0.

        Raises:
            BrokenRuleError: a rule failed to run.
        """
        if not self._rules:
            return []
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        # Without `unexpected_index_column_names` the index itself comes back, which takes GX a
        # twentieth of the time.
        result = batch.validate(self._suite, result_format={"result_format": "COMPLETE"})
        found = {item.expectation_config.meta["rule"]: item for item in result.results}
        return [self._result(rule, found.get(rule.name)) for rule in self.suite.rules]

    def _result(self, rule: Rule, item: Any) -> RuleResult:
        trouble = "it has no result" if item is None else _exception(item.exception_info)
        if trouble:
            raise BrokenRuleError(
                f"{rule.place} ({rule.type}) failed to run: {trouble}; the data were not checked, "
                "so this says nothing about them",
                f"mend the rule in {rule.file}",
            )
        rows = [int(row) for row in item.result.get("unexpected_index_list") or []]
        return RuleResult(rule, rows, item)


@cache
def great_expectations() -> Any:
    """Return the library, which takes seconds to import, silent and without its analytics."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read while it is imported
    # It logs hundreds of lines while it is imported, and one module sets a level of its own.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return great_expectations


def _expectation(rule: Rule, suite: str) -> Any:
    cls = _implementation(rule)
    _check_kind(rule, cls, suite)
    known = sorted(set(cls.__fields__) - _NOT_KWARGS)
    for name in rule.kwargs:
        if name not in known:
            raise ConfigError(
                f"{rule.place}: {rule.type} takes no argument {name!r}; {nearest(name, known)}",
                f"mend {rule.file}",
            )
    try:
        # The description is what Data Docs show of a rule.
        text = f"{rule.expected}: {rule.notes}"
        return cls(**rule.kwargs, description=text, meta={"rule": rule.name})
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{rule.place}: {rule.type} refuses these arguments: {_on_one_line(error)}",
            f"mend the kwargs in {rule.file}",
        ) from None


def _implementation(rule: Rule) -> Any:
    great_expectations()
    from great_expectations.expectations import registry

    names = registry.list_registered_expectation_implementations()
    if rule.type not in names:
        raise ConfigError(
            f"{rule.place} has type {rule.type!r}, which Great Expectations does not know; "
            f"{nearest(rule.type, names)}",
            f"mend {rule.file}",
        )
    return registry.get_expectation_impl(rule.type)


def _check_kind(rule: Rule, cls: Any, suite: str) -> None:
    """Check that a rule looks at rows one by one, as batches are; the set's one row is a whole."""
    from great_expectations.expectations import expectation

    if suite == "set":
        return
    kinds: Sequence[type] = (
        expectation.ColumnMapExpectation,
        expectation.ColumnPairMapExpectation,
        expectation.MulticolumnMapExpectation,
    )
    if rule.type in _ACROSS_ROWS:
        trouble, remedy = "compares rows of one batch with one another", _ACROSS_ROWS[rule.type]
    elif not issubclass(cls, tuple(kinds)):
        trouble, remedy = "checks a whole set and not each row", "move it to set.yaml"
    elif "mostly" in rule.kwargs:
        trouble = "has `mostly`, which counts within one batch"
        remedy = "leave it out; validation.max_quarantine_share says how many rows may leave"
    else:
        return
    raise ConfigError(f"{rule.place} ({rule.type}) {trouble}; expected a rule on each row", remedy)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _exception(info: Any) -> str:
    """Return the message of an expectation's exception: either flat, or one a metric."""
    flat = info if "raised_exception" in info else None
    entries = [flat] if flat else list(info.values())
    messages = [str(entry["exception_message"]) for entry in entries if entry["raised_exception"]]
    return "; ".join(messages)


_EXAMPLES = 20

# What GX says by position in a batch, or would say of one batch alone.
_OF_A_BATCH = (
    "unexpected_list",
    "unexpected_index_list",
    "unexpected_index_query",
    "partial_unexpected_index_list",
    "partial_unexpected_counts",
)


class SuiteTotals:
    """The results of a suite, added up: counts are sums, examples the first twenty."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._results: dict[str, Any] = {}
        self.batches = 0

    def add(self, results: Sequence[RuleResult]) -> None:
        """Add what GX said of one more batch."""
        self.batches += 1
        for result in results:
            before = self._results.get(result.rule.name)
            self._results[result.rule.name] = _added(before, result.result)

    def results(self) -> list[Any]:
        """Return one of GX's results a rule, in the suite's order; none before the first batch."""
        return [self._results[rule.name] for rule in self.suite.rules if rule.name in self._results]

    def as_suite_result(self, when: str) -> Any:
        """Return the whole as GX's result of a suite; `when` is an ISO time."""
        great_expectations()
        from great_expectations.core import ExpectationSuiteValidationResult
        from great_expectations.core.run_identifier import RunIdentifier

        results = self.results()
        good = sum(bool(item.success) for item in results)
        return ExpectationSuiteValidationResult(
            success=good == len(results),
            results=results,
            suite_name=self.suite.name,
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": good,
                "unsuccessful_expectations": len(results) - good,
                "success_percent": 100 * good / max(len(results), 1),
            },
            meta={"run_id": RunIdentifier(run_name=self.suite.name, run_time=when)},
        )


def _added(before: Any, item: Any) -> Any:
    """Return one result that counts what two count; the lists of all broken rows are let go."""
    total = copy(item)
    result = dict(item.result)
    for name in _OF_A_BATCH:
        result.pop(name, None)
    if before is not None:
        total.success = bool(item.success and before.success)
        for name in ("element_count", "unexpected_count", "missing_count"):
            result[name] = before.result.get(name, 0) + result.get(name, 0)
        examples = [
            *before.result.get("partial_unexpected_list", []),
            *result.get("partial_unexpected_list", []),
        ]
        result["partial_unexpected_list"] = examples[:_EXAMPLES]
    _set_percentages(result)
    # GX can't render numpy's numbers.
    total.result = {k: v.item() if isinstance(v, np.generic) else v for k, v in result.items()}
    return total


def _set_percentages(result: dict[str, Any]) -> None:
    """Set what GX's own percentages say, of the sums."""
    elements, unexpected = result.get("element_count"), result.get("unexpected_count")
    if not elements or unexpected is None:
        return
    missing = result.get("missing_count", 0)
    present = max(elements - missing, 1)
    result["missing_percent"] = 100 * missing / elements
    result["unexpected_percent"] = 100 * unexpected / present
    result["unexpected_percent_nonmissing"] = result["unexpected_percent"]
    result["unexpected_percent_total"] = 100 * unexpected / elements


DATA_DOCS_FILE = "data_docs.html"

_TEMPLATES = Path(__file__).with_name("templates")

# GX's overview of a suite: its info tables name paths and versions, which we say elsewhere.
_OVERVIEW = 0
_ESCAPED_BY_GX = {"params", "styling"}


def render_data_docs(totals: Sequence[SuiteTotals], when: str) -> str:
    """Return the page of several suites' results; equal results give equal bytes.

    `when` is the newest intake's time, the only one that the results depend on.
    """
    great_expectations()
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    renderer = ValidationResultsPageRenderer()
    suites = []
    for total in totals:
        result = total.as_suite_result(when)
        document = renderer.render(result).to_json_dict()
        statistics = result.statistics
        said = (
            f"{statistics['successful_expectations']} of {statistics['evaluated_expectations']} "
            f"rules hold; batches checked: {total.batches}"
        )
        sections = _quiet(document["sections"])
        suites.append({"name": total.suite.name, "said": said, "sections": sections})
    view = DefaultJinjaPageView(custom_views_directory=str(_TEMPLATES))
    # GX gives collapsed parts random ids; these are as unique, and the same every time.
    numbers = count()
    view.env.filters["generate_html_element_uuid"] = lambda prefix=None: f"{prefix}{next(numbers)}"
    template: Any = view.env.get_template("nightloom_data_docs.j2")
    page: str = template.render(suites=suites, subtitle=f"Newest intake: {when}")
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def _quiet(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return GX's sections without its overview, whose tables name objects in memory."""
    return [_escaped(section) for place, section in enumerate(sections) if place != _OVERVIEW]


def _escaped(part: Any) -> Any:
    """Return a part of GX's document with its texts as HTML shows them.

    GX escapes `params` of a text by itself, and neither texts nor the cells of tables, where values
    of the data stand.
    """
    if isinstance(part, str):
        return html.escape(part)
    if isinstance(part, list):
        return [_escaped(item) for item in part]
    if isinstance(part, dict):
        return {
            key: value if key in _ESCAPED_BY_GX else _escaped(value) for key, value in part.items()
        }
    return part
