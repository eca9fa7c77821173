"""Secrets that a user's machine holds, and a watch over what its list of processes shows."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a user's environment may hold; a remote of his repository holds one more.
PLANTED = {
    "HF_TOKEN": "hf_planted-Hub8Token4711",
    "OPENAI_API_KEY": "sk-planted-Api5Key2903",
    "SHOP_DATABASE": "postgresql://shop:planted-Sql7Word6120@db.example/rows",
    "CHAT_HOOK": "https://chat.example/planted-Hook3Path8846",
    "AWS_SECRET_ACCESS_KEY": "planted-Store9Key5518",
}
REMOTE = "https://robot:planted-Git2Word7365@git.example/night.git"
_SECONDS = 0.2


def planted_secrets() -> list[str]:
    """Return the telling part of each."""
    values = [value.rpartition("planted")[2] for value in (*PLANTED.values(), REMOTE)]
    return [value.partition("@")[0] for value in values]


def private_secrets(checkout: Path) -> list[str]:
    """Return the secrets that a checkout made for its own servers, plain and as they are sent."""
    lines = [
        path.read_text(encoding="utf-8").strip()
        for path in (checkout / ".nightloom" / "private").glob("*-auth")
    ]
    coded = [base64.b64encode(line.encode()).decode() for line in lines]
    return [*(line.rpartition(":")[2] for line in lines), *coded]


@contextmanager
def watched_processes() -> Iterator[list[str]]:
    """Give the command lines of all processes that are seen before the block ends."""
    seen: dict[str, None] = {}
    lines: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen[path.read_bytes().replace(b"\0", b" ").decode(errors="replace")] = None
                except OSError:  # it has ended
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lines
    finally:
        ended.set()
        watcher.join()
        lines.extend(seen)
