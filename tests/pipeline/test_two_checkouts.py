"""Two checkouts of one machine are up at the same time, each on ports of its own that it prints."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tasks.services.loopback import open_directly
from tests.builders.clones import as_in_a_terminal, command, environment, nightloom
from tests.builders.prefect_server import copy_migrated_store
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

READY = "Ctrl-C stops everything"


def start(root: Path) -> "subprocess.Popen[str]":
    """Start `nightloom up` as a person does: without a word on ports."""
    return subprocess.Popen(
        command("up"), cwd=root, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=as_in_a_terminal,
    )  # fmt: skip


def printed(process: "subprocess.Popen[str]") -> str:
    """Return what it printed until it was up."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if READY in line:
            return said
    raise AssertionError(said)


def test_both_are_up_and_print_where(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    roots = [Clone.make(Path(), tmp_path / name).root for name in ("one", "two")]
    for root in roots:
        copy_migrated_store(tmp_path_factory, root / ".nightloom" / "prefect")
    processes = [start(root) for root in roots]
    try:
        found = [re.findall(r"http://127\.0\.0\.1:(\d+)", printed(one)) for one in processes]
        ports = [{int(port) for port in own} for own in found]
        assert [len(own) for own in ports] == [2, 2]
        assert not ports[0] & ports[1]
        for root, own in zip(roots, ports, strict=True):
            status = json.loads(nightloom(root, "status", "--json").stdout)["services"]
            assert {int(status[name].rpartition(":")[2]) for name in ("prefect", "mlflow")} == own
            health = open_directly(f"{status['prefect']}/api/health", timeout_seconds=30)
            assert health.status == 200
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=200)
