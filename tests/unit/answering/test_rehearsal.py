"""A bundle is asked its golden prompts again before production goes back to it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.answering.rehearsal import main, rehearse
from tasks.stage.errors import ConfigError, GateError
from tasks.stage.outputs import write_manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def bundle(tmp_path: Path, released: Path) -> Path:
    return shutil.copytree(released, tmp_path / "bundle")


def forge(bundle: Path, **values: Any) -> None:
    """Let every golden prompt of the adapter be recorded otherwise."""
    golden = json.loads((bundle / "golden.json").read_text())
    golden["models"]["adapter"] = [item | values for item in golden["models"]["adapter"]]
    (bundle / "golden.json").write_text(json.dumps(golden))
    (bundle / "manifest.json").unlink()
    write_manifest(bundle)


def test_a_bundle_that_answers_as_it_did_says_so(bundle: Path, tiny: Any, capsys: Any) -> None:
    for model in ("adapter", "student"):
        said = rehearse(bundle, tiny.store, model, 0.0)
        assert said == "4 of 4 golden prompts answered as recorded"
    # Beyond what each load hears again, so that only the whole answers tell.
    forge(bundle, answer_ids=[1], checked_tokens=0)
    with pytest.raises(GateError, match="0 of 4 golden prompts answered as recorded; at most 25%"):
        rehearse(bundle, tiny.store, "adapter", 0.25)
    options = ["--bundle", str(bundle), "--store", str(tiny.store), "--mismatch", "0.25"]
    assert main(options) == 3
    assert "GateError: 0 of 4" in capsys.readouterr().out


def test_a_bundle_whose_prompts_come_out_otherwise_is_refused(bundle: Path, tiny: Any) -> None:
    forge(bundle, prompt_ids=[1, 2, 3])
    with pytest.raises(ConfigError, match="parts from what was recorded"):
        rehearse(bundle, tiny.store, "adapter", 0.25)
