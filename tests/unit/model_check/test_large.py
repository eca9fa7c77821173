"""A base of eight billion weights is looked at in seconds and in little memory."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

from tests.builders.families import FAMILIES
from tests.builders.sparse_models import write_sparse
from tests.unit.model_check.conftest import source_of

_MOST_BYTES, _MOST_SECONDS = 2_000_000_000, 60  # of processor time
_PEAK = """
import resource, sys
from tasks.model_check.__main__ import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


@pytest.mark.slow
def test_an_8b_shape_is_checked_in_seconds_and_under_2_gb(tmp_path: Path) -> None:
    family, folder = FAMILIES["llama3"], tmp_path / "model"
    family.tokenizer().save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
    )  # fmt: skip
    write_sparse(config, folder)
    files = [f"params/{name}.yaml" for name in ("models", "finetuning", "distillation", "compute")]
    words = ["--params", *files, "--source", source_of(folder, family).model_dump_json()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *words, "--store", str(tmp_path / "store")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    *rows, last = done.stdout.splitlines()
    found = {row["name"]: row for row in map(json.loads, rows)}
    assert "8.03 billion weights in 32 layers" in found["shape"]["found"]
    assert found["adapted"]["found"].startswith("qlora, 99.9% of the decoder's weights")
    assert int(last.split()[1]) < _MOST_BYTES
    assert taken < _MOST_SECONDS
    tried = ("trained", "served as trained", "packed", "pruned", "GGUF")
    assert {found[name]["fault"] for name in tried} == {None}
    # Whether the machine is large enough is its own matter.
    assert "32.1 GB" in str(found["memory"]["fault"] or found["memory"]["found"])
    assert not list(tmp_path.glob("store/*"))
