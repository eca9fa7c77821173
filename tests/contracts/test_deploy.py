"""The files of `deploy/` name what is there, run nothing as root, and leave no door open."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.servers import _JOB_TEMPLATE

DEPLOY = Path("deploy")
TAGGED = re.compile(r"[\w./-]+:[\w.-]*\d[\w.-]*$")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def job_pool() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "kubernetes/job-pool.json").read_text("utf-8"))
    return found


def test_images_are_pinned_by_a_version(compose: dict[str, Any]) -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    images = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    images += [one["image"] for one in compose["services"].values() if "build" not in one]
    assert len(images) == 5
    assert all(TAGGED.fullmatch(image) and "latest" not in image for image in images), images


def test_the_image_runs_as_a_user_and_has_no_compiler() -> None:
    final = (DEPLOY / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in final
    assert not re.search(r"apt|build-essential|gcc|pip install", final)


def test_what_stays_out_of_the_image_names_secrets_and_stores() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split()
    assert {".git", ".nightloom", "data/*", "deploy/.env", ".dvc/config.local"} <= set(ignored)
    assert "/deploy/.env" in Path(".gitignore").read_text("utf-8").split()


def test_ports_are_published_on_loopback_alone(compose: dict[str, Any]) -> None:
    ports = [port for one in compose["services"].values() for port in one.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_stands_in_a_file(compose: dict[str, Any], job_pool: dict[str, Any]) -> None:
    for one in compose["services"].values():
        for name, value in one.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|AUTH", name):
                assert "${" in value, name
    [container] = _pod(job_pool)["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "nightloom"}}]
    assert "env" not in container


def test_who_starts_runs_chooses_no_program(job_pool: dict[str, Any]) -> None:
    """Neither of both pools lets a run name a command, an image or an environment."""
    process = json.loads((DEPLOY / "prefect/process-pool.json").read_text("utf-8"))
    assert process == _JOB_TEMPLATE
    assert set(job_pool["variables"]["properties"]) == {"name", "cpu", "memory", "gpus"}
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(job_pool["job_configuration"])))
    assert used == set(job_pool["variables"]["properties"])


def test_a_job_has_bounds_tolerates_gpus_and_has_no_rights(job_pool: dict[str, Any]) -> None:
    pod = _pod(job_pool)
    [container] = pod["containers"]
    assert container["resources"]["limits"].keys() == {"memory", "nvidia.com/gpu"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    version = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert container["image"] == f"nightloom:{version}"


def _pod(job_pool: dict[str, Any]) -> dict[str, Any]:
    manifest = job_pool["job_configuration"]["job_manifest"]
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def test_volumes_are_where_the_image_writes(
    compose: dict[str, Any], job_pool: dict[str, Any]
) -> None:
    places = {f"/srv/nightloom/{name}" for name in (".nightloom", "data", ".dvc/cache")}
    assert {text.partition(":")[2] for text in compose["services"]["worker"]["volumes"]} == places
    [container] = _pod(job_pool)["containers"]
    assert places <= {mount["mountPath"] for mount in container["volumeMounts"]}


def test_both_extras_stand_in_the_lock_file() -> None:
    locked = {line.partition("==")[0] for line in Path("requirements.lock").read_text().split()}
    assert {"boto3", "dvc-s3", "moto"} <= locked
