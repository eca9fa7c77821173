"""Data Docs: Great Expectations' own pages of results, as one file that needs no network."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tasks.validation.expectations import great_expectations
from tasks.validation.totals import Totals

DATA_DOCS_FILE = "data_docs.html"
_TEMPLATES = Path(__file__).with_name("templates")
# GX's overview of a suite: its info tables name paths and versions, which we say elsewhere.
_OVERVIEW = 0


def render_data_docs(totals: Sequence[Totals], when: str) -> str:
    """The page of several suites' results; equal results give equal bytes.

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
            f"rules hold; batches judged: {total.batches}"
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
    """GX's sections without its overview, whose tables name this machine's objects in memory."""
    return [section for place, section in enumerate(sections) if place != _OVERVIEW]
