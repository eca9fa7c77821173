"""The end of a night, told where people look: the log and an artifact in Prefect's UI."""

from collections.abc import Mapping, Sequence

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE


@task(cache_policy=NO_CACHE, persist_result=False)
def notify(
    night: str,
    verdict: str,
    reasons: Sequence[str],
    stages: Mapping[str, str],
    mlflow_run: str,
) -> None:
    """Nothing; Prefect then shows the verdict, its reasons and what each stage did."""
    rows = [f"| {name} | {state} |" for name, state in stages.items()]
    lines = [f"# {night}: {verdict}", "", *(f"- {reason}" for reason in reasons), ""]
    lines += ["| stage | state |", "|---|---|", *rows, "", f"MLflow run `{mlflow_run}`"]
    create_markdown_artifact("\n".join(lines), key="night", description=f"{night}: {verdict}")
    get_run_logger().info("%s: %s", night, verdict)
