"""A bundle is asked its golden prompts again before production goes back to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.serving.rehearsal import main, rehearse
from tasks.stage.errors import DataError, GateError
from tests.unit.test_packaging import package, params

__all__ = ["params"]


@pytest.fixture
def bundle(tmp_path: Path, params: Any, tiny: Any, scored: Any) -> Path:
    return package(tmp_path, params, tiny, scored.index, scored.report)


def forge(bundle: Path, **values: Any) -> None:
    """Let every golden answer of the adapter be recorded otherwise."""
    rows = json.loads((bundle / "golden.json").read_text())
    changed = [row | values if row["model"] == "adapter" else row for row in rows]
    (bundle / "golden.json").write_text(json.dumps(changed))


def test_a_bundle_that_answers_as_it_did_says_so(bundle: Path, tiny: Any, capsys: Any) -> None:
    for model in ("adapter", "student"):
        said = rehearse(bundle, tiny.store, model, 0.0)
        assert said == "4 of 4 golden prompts answered as recorded"
    forge(bundle, token_ids=[1])
    with pytest.raises(GateError, match="0 of 4 golden prompts answered as recorded; at most 25%"):
        rehearse(bundle, tiny.store, "adapter", 0.25)
    options = ["--bundle", str(bundle), "--store", str(tiny.store), "--mismatch", "0.25"]
    assert main(options) == 3
    assert "GateError: 0 of 4" in capsys.readouterr().out


def test_a_bundle_whose_prompts_come_out_otherwise_or_are_missing_is_refused(
    bundle: Path, tiny: Any
) -> None:
    forge(bundle, prompt_sha256="0" * 64)
    with pytest.raises(GateError, match="none of the 4 golden prompts"):
        rehearse(bundle, tiny.store, "adapter", 0.25)
    (bundle / "golden.json").unlink()
    with pytest.raises(DataError, match=r"holds no golden\.json"):
        rehearse(bundle, tiny.store, "adapter", 0.25)
