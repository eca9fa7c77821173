"""Every page of a night, looked at in a real browser: what it says, and that its links open.

With PICTURES=FOLDER in the environment the pages are written there as PNGs, as the docs show them.
"""

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.services.loopback import free_port
from tests.builders.browser import CHROMIUM, Page, browser
from tests.builders.clones import as_in_a_terminal, command, environment, nightloom, run

pytestmark = [
    pytest.mark.night,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here"),
]


@dataclass(frozen=True)
class Site:
    """Two nights of one checkout, and the servers that show them."""

    root: Path
    prefect: str
    mlflow: str
    status: dict[str, Any]

    @property
    def nights(self) -> list[str]:
        """Return the names of the nights, newest first."""
        return [night["night"] for night in self.status["nights"]]

    @property
    def reports(self) -> Path:
        """Return the reports of the workspace in which the nights ran."""
        [folder] = self.root.glob(".nightloom/workspaces/*/data/reports")
        return folder


def start(root: Path) -> "subprocess.Popen[str]":
    """Start `nightloom up`, and return once it says that all is up."""
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(
        command("up", *ports, "--preset", "tiny"), cwd=root, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=as_in_a_terminal,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C stops everything" in line:
            return process
    raise AssertionError("".join(said))


@pytest.fixture(scope="module")
def site(after_a_night: Path) -> Iterator[Site]:
    assert run(after_a_night)[0] == 0
    process = start(after_a_night)
    try:
        status = json.loads(nightloom(after_a_night, "status", "--json").stdout)
        services = status["services"]
        yield Site(after_a_night, services["prefect"], services["mlflow"], status)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


@pytest.fixture(scope="module")
def page(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as found:
        enter_prefect(found, site)
        enter_mlflow(found, site)
        yield found


def enter_prefect(page: Page, site: Site) -> None:
    """Give the browser Prefect's secret, as a person enters it on its page."""
    [secret] = site.root.glob(".nightloom/private/prefect-auth")
    page.open(site.prefect, until="")
    time.sleep(1)
    coded = base64.b64encode(secret.read_text().strip().encode()).decode()
    page.run(f"localStorage.setItem('prefect-password', {json.dumps(coded)})")


def enter_mlflow(page: Page, site: Site) -> None:
    """Let the browser know MLflow's user and password, as it asks a person for them."""
    [secret] = site.root.glob(".nightloom/private/mlflow-auth")
    page.open(site.mlflow.replace("://", f"://{secret.read_text().strip()}@"), until="")
    time.sleep(1)


def open_deployments(page: Page, site: Site) -> str:
    """Open the list of deployments, and return the address of the nightly one's page.

    Not by a click on its name: the row names the flow, too.
    """
    page.open(f"{site.prefect}/deployments", until="nightly", width=1280, height=1000)
    return str(
        page.run(
            """[...document.querySelectorAll('a[href*="/deployments/deployment/"]')]"""
            ".find(one => one.innerText.trim() === 'nightly').href"
        )
    )


def pictured(page: Page, name: str, height: int | None = None) -> None:
    folder = os.environ.get("PICTURES")
    if folder:
        time.sleep(2)
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.picture(Path(folder) / f"{name}.png", height=height)


def test_mlflows_page_of_a_night_says_why_and_its_links_open(page: Page, site: Site) -> None:
    first = site.nights[-1]
    runs = {night["night"]: night["mlflow_run"] for night in site.status["nights"]}
    address = site.status["pages"]["last night"].replace(runs[site.nights[0]], runs[first])
    text = page.open(address, until="Minutes by stage", width=1400, height=1500)
    for said in ("nightly.py", "intakes", "promoted", "adapter.f1", "compared with"):
        assert said in text, said
    [metrics] = re.findall(r"Metrics \((\d+)\)", text)
    assert int(metrics) <= 15
    page.click("Show more")
    pictured(page, "mlflow-night")
    files = {"history": "history.html", "report": "reports/evaluation/report.html"}
    links = {
        title: page.run(
            "[...document.querySelectorAll('a[target=_blank]')]"
            f".filter(one => one.innerText.trim() === {json.dumps(title)}).at(-1).href"
        )
        for title in files
    }
    for title, link in links.items():
        page.open(link, until=f"artifacts/{files[title]}")


def test_mlflows_table_of_nights_holds_the_verdicts_beside_the_scores(
    page: Page, site: Site
) -> None:
    text = page.open(site.status["pages"]["nights"], until=site.nights[-1], width=1500, height=620)
    for said in (*site.nights, "adapter.f1", "student.f1", "verdict", "2 matching runs"):
        assert said in text, said
    pictured(page, "mlflow-nights")


def test_mlflow_lays_two_nights_side_by_side(page: Page, site: Site) -> None:
    text = page.open(site.status["pages"]["last two nights"], until="Show diff only")
    for said in ("Comparing 2 Runs", *site.nights, "adapter.f1", "verdict", "promoted to"):
        assert said in text, said
    pictured(page, "mlflow-comparison")


def test_prefects_runs_have_names_tags_and_artifacts_that_open(page: Page, site: Site) -> None:
    page.open(f"{site.prefect}/runs", until=f"build {site.nights[0]}", width=1280, height=1000)
    text = page.wait(f"release {site.nights[0]}")
    assert f"nightly {site.nights[0]}" in text
    assert "unchanged" in text
    pictured(page, "prefect-runs")
    page.open(f"{site.prefect}/artifacts", until="night")
    assert "file://" not in page.text


def test_scheduled_nights_are_named_by_the_time_that_they_are_to_start(
    page: Page, site: Site
) -> None:
    page.open(open_deployments(page, site), until="Upcoming")
    page.click("Upcoming")
    assert re.search(r"nightly 20\d\d-\d\d-\d\dT023000Z", page.wait("T023000Z"))


def test_prefects_form_says_what_each_parameter_is(page: Page, site: Site) -> None:
    address = open_deployments(page, site)
    text = page.open(f"{address}/run", until="FILE.KEY=VALUE", width=1280, height=1000)
    for said in ("preset", "overrides", "A list of values in params/presets", "night"):
        assert said in text, said
    pictured(page, "prefect-form")


@pytest.mark.parametrize(
    ("width", "media", "name"),
    [(1100, "screen", "history"), (400, "screen", "history-400"), (718, "print", "history-print")],
)
def test_the_history_shows_both_nights_without_scrolling_sideways(
    page: Page, site: Site, width: int, media: str, name: str
) -> None:
    history = site.root / "data" / "reports" / "history.html"
    page.call("Emulation.setEmulatedMedia", media=media)
    text = page.open(history.as_uri(), until="The last nights", width=width, height=900)
    for said in (*site.nights, "unchanged", "promoted", "Minutes by stage"):
        assert said in text, said
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelectorAll('svg circle').length") == 2
    pictured(page, name)
    page.call("Emulation.setEmulatedMedia", media="")


def test_the_report_and_data_docs_show_themselves_without_a_network(page: Page, site: Site) -> None:
    assert "Answers side by side" in page.open(
        (site.reports / "evaluation" / "report.html").as_uri(), until="In words"
    )
    pictured(page, "report")
    docs = page.open((site.reports / "validation" / "data_docs.html").as_uri(), until="xpect")
    assert "records" in docs.lower()
    pictured(page, "data-docs")
