"""A file that llama.cpp has loaded can be let go at any time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.export.formats import Format
from tasks.export.gguf_writing import Description, write_gguf
from tests.builders.plain_llama import plain_llama

_OPEN_AND_FREE = """
import sys
from pathlib import Path
from tasks.export.llama_cpp import LlamaCpp
for _ in range(60):
    LlamaCpp(Path(sys.argv[1]), context=256, rows=1, threads=1, exact=True)
"""


@pytest.mark.slow
def test_a_file_that_is_let_go_at_once_does_not_wait_for_ever(tmp_path: Path) -> None:
    """On busy cores its loop may begin late, and the end that it was told before was lost."""
    path = tmp_path / "m.gguf"
    write_gguf(path, plain_llama(), Format.gguf_f32, Description("m-1", "MIT", "made"))
    command = [sys.executable, "-c", _OPEN_AND_FREE, str(path)]
    opened = [subprocess.Popen(command) for _ in range(4)]
    try:
        assert [one.wait(timeout=120) for one in opened] == [0] * 4
    finally:
        for one in opened:
            one.kill()
