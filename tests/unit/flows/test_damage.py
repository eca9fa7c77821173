"""An out whose bytes are not as they were written is put aside and comes back, on a real project.

A disk that flips a bit leaves a file's times as they are, which DVC trusts.
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from flows.damage import put_damaged_aside
from flows.graph import cache_folder, read_stage
from tasks.stage.outputs import verified
from tests.builders.dvc_project import ran_project, repro

pytestmark = pytest.mark.slow
MAKE = """
import hashlib, json, pathlib
out = pathlib.Path("data/first")
out.mkdir()
(out / "rows").write_text("many rows")
digest = hashlib.sha256(b"many rows").hexdigest()
(out / "manifest.json").write_text(json.dumps({"files": {"rows": digest}}))
"""
PIPELINE = """
stages:
  first: {cmd: python make.py, deps: [make.py], outs: [data/first]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one stage ran."""
    files = {
        "data/scratch/rest": "",
        "make.py": MAKE,
        "dvc.yaml": PIPELINE,
    }
    return ran_project(tmp_path, files)


def flip(path: Path) -> None:
    found, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def cached(project: Path, name: str) -> Path:
    """The file in the cache that holds one of the out's, or the listing of the out."""
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    digest = lock["stages"]["first"]["outs"][0]["md5"]
    cache = cache_folder(project)
    listing = cache / digest[:2] / digest[2:]
    if name == "listing":
        return listing
    md5s = {one["relpath"]: one["md5"] for one in json.loads(listing.read_text())}
    return cache / md5s[name][:2] / md5s[name][2:]


def mended(project: Path) -> list[str]:
    return put_damaged_aside(project, project / "data" / "scratch" / "damaged")


@pytest.mark.parametrize("name", ["rows", "manifest.json"])
def test_an_out_of_which_a_bit_flipped_is_restored_and_kept_aside(name: str, project: Path) -> None:
    flip(project / "data" / "first" / name)
    assert read_stage(project, "first").current, "DVC trusts the times"
    [told] = mended(project)
    assert "data/first" in told
    assert "it is brought back" in told
    assert not read_stage(project, "first").current
    assert any("is cached - skipping run" in line for line in repro(project))
    verified(project / "data" / "first")
    [aside] = (project / "data" / "scratch" / "damaged").iterdir()
    assert {path.name for path in aside.iterdir()} == {"rows", "manifest.json"}


@pytest.mark.parametrize("name", ["rows", "manifest.json", "listing"])
def test_one_whose_copy_in_the_cache_is_damaged_too_is_made_anew(name: str, project: Path) -> None:
    flip(cached(project, name))
    flip(project / "data" / "first" / "rows")
    [told] = mended(project)
    assert "made anew" in told
    assert "Running stage 'first':" in repro(project)
    verified(project / "data" / "first")
    assert mended(project) == []


def test_what_is_whole_or_says_not_what_it_holds_stays(project: Path) -> None:
    assert mended(project) == []
    (project / "data" / "first" / "manifest.json").unlink()
    assert mended(project) == []
    assert (project / "data" / "first" / "rows").exists()
