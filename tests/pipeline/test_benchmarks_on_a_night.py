"""The benchmarks of a night's data, in a short form: what makes their comparisons fair holds."""

from typing import Any

import pytest

from tests.builders.clones import BuiltClone
from tests.pipeline.test_benchmarks import figures

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]


def of_the_night(built: BuiltClone, benchmark: str, *arguments: str) -> dict[str, Any]:
    [workspace] = built.checkout.glob(".nightloom/workspaces/*")
    place = ["--workspace", str(workspace)]
    return figures(benchmark, "--quick", *place, *arguments, at=built.checkout)


@pytest.mark.parametrize(
    ("benchmark", "arguments"),
    [("generation", ()), ("retrieval", ("--passages", "4000", "--repeats", "1"))],
)
def test_a_benchmark_finds_what_its_peers_find(
    built: BuiltClone, benchmark: str, arguments: tuple[str, ...]
) -> None:
    """Else it ends with 1: an answer of ours is no tie with the peer's, or a passage is missing."""
    assert of_the_night(built, benchmark, *arguments)["figures"]


def test_distillation_beside_trl_comes_to_the_same_divergence(built: BuiltClone) -> None:
    found = of_the_night(built, "distillation")
    assert found["ratios"].keys() == {"trl_gkd", "online_teacher"}
    assert found["figures"]["divergence_differs_by"]["trl_gkd"] < 0.01
    divergence = found["figures"]["divergence"]
    assert all(
        value < 0.95 * divergence["before"] for value in (divergence["trl_gkd"], divergence["ours"])
    )
