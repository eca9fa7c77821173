"""Where a text lies in the files of a folder: every byte is looked at, and archives are opened.

It shares nothing with the code that erases, so that neither forgives the other.
"""

import gzip
import html
import io
import json
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow import parquet


def forms_of(text: str) -> list[bytes]:
    """A text as UTF-8, UTF-16, in JSON, in HTML, and in both Unicode forms."""
    found = set()
    for form in (unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        found |= {form.encode(), form.encode("utf-16-le"), html.escape(form).encode()}
        for plain in (True, False):
            once = json.dumps(form, ensure_ascii=plain)[1:-1]
            found |= {once.encode(), json.dumps(once)[1:-1].encode()}
    return sorted(found)


def files_with(root: Path, texts: Sequence[str], *, left_out: Sequence[Path] = ()) -> list[Path]:
    """The files below a folder that hold one of the texts, whatever it is packed in."""
    forms = [form for text in texts for form in forms_of(text)]
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return [
        path
        for path in files
        if not any(path.is_relative_to(folder) for folder in left_out)
        and any(form in content for content in opened(path.read_bytes()) for form in forms)
    ]


def opened(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and those of everything packed in them."""
    yield content
    if depth > 3:
        return
    inner: list[bytes] = []
    if content[:2] == b"\x1f\x8b":
        inner = [gzip.decompress(content)]
    elif content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inner = [archive.read(name) for name in archive.namelist()]
    elif content[:4] == b"PAR1":
        with parquet.ParquetFile(io.BytesIO(content)) as file:
            rows = file.read().to_pylist()
        inner = [json.dumps(rows, ensure_ascii=False, default=str).encode(errors="replace")]
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            inner = [file.read() for item in archive if (file := archive.extractfile(item))]
    elif content[:1] == b"\x78":
        try:
            inner = [zlib.decompress(content)]
        except zlib.error:
            inner = []
    for found in inner:
        yield from opened(found, depth + 1)
