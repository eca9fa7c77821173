"""Great Expectations: rules become expectations, frames become results, batch by batch."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

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
class Finding:
    """What GX says of one rule in one frame: all of it, and the positions of the rows at fault."""

    rule: Rule
    rows: list[int]
    result: Any


class Judge:
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

    def findings(self, frame: pd.DataFrame) -> list[Finding]:
        """What GX says of every rule, in the suite's order; `frame` has a plain index from 0.

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
        return [self._finding(rule, found.get(rule.name)) for rule in self.suite.rules]

    def _finding(self, rule: Rule, item: Any) -> Finding:
        trouble = "it has no result" if item is None else _exception(item.exception_info)
        if trouble:
            raise BrokenRuleError(
                f"{rule.place} ({rule.type}) failed to run: {trouble}; the data were not judged, "
                "so this says nothing about them",
                f"mend the rule in {rule.file}",
            )
        rows = [int(row) for row in item.result.get("unexpected_index_list") or []]
        return Finding(rule, rows, item)


@cache
def great_expectations() -> Any:
    """The library, which takes seconds to import, silent and without its analytics."""
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
    """Rows are judged one by one, in batches; only the one row of the set is judged whole."""
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
        trouble, remedy = "judges a whole set and not each row", "move it to set.yaml"
    elif "mostly" in rule.kwargs:
        trouble = "has `mostly`, which counts within one batch"
        remedy = "leave it out; validation.max_quarantine_share says how many rows may leave"
    else:
        return
    raise ConfigError(f"{rule.place} ({rule.type}) {trouble}; expected a rule on each row", remedy)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _exception(info: Any) -> str:
    """The message of an expectation's exception: either flat, or one a metric."""
    flat = info if "raised_exception" in info else None
    entries = [flat] if flat else list(info.values())
    messages = [str(entry["exception_message"]) for entry in entries if entry["raised_exception"]]
    return "; ".join(messages)
