"""What GX said of many batches, as one result of the whole."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from tasks.validation.expectations import Finding, great_expectations
from tasks.validation.suites import Suite

_EXAMPLES = 20
# What GX says by position in a batch, or would say of one batch alone.
_OF_A_BATCH = (
    "unexpected_list",
    "unexpected_index_list",
    "unexpected_index_query",
    "partial_unexpected_index_list",
    "partial_unexpected_counts",
)


class Totals:
    """The results of a suite, added up: counts are sums, examples the first twenty."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._results: dict[str, Any] = {}
        self.batches = 0

    def add(self, findings: Sequence[Finding]) -> None:
        """Add what GX said of one more batch."""
        self.batches += 1
        for finding in findings:
            before = self._results.get(finding.rule.name)
            self._results[finding.rule.name] = _sum(before, finding.result)

    def results(self) -> list[Any]:
        """One of GX's results a rule, in the suite's order; none before the first batch."""
        return [self._results[rule.name] for rule in self.suite.rules if rule.name in self._results]

    def as_suite_result(self, when: str) -> Any:
        """The whole as GX's result of a suite; `when` is an ISO time."""
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


def _sum(before: Any, item: Any) -> Any:
    """One result that counts what two count; the lists of all broken rows are let go."""
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
    """What GX's own percentages say, of the sums."""
    elements, unexpected = result.get("element_count"), result.get("unexpected_count")
    if not elements or unexpected is None:
        return
    missing = result.get("missing_count", 0)
    present = max(elements - missing, 1)
    result["missing_percent"] = 100 * missing / elements
    result["unexpected_percent"] = 100 * unexpected / present
    result["unexpected_percent_nonmissing"] = result["unexpected_percent"]
    result["unexpected_percent_total"] = 100 * unexpected / elements
