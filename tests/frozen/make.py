"""Freeze a small store: run a checkout's own commands in it and pack what they left.

`python -m tests.frozen.make --checkout DIR --out tests/frozen/store-COMMIT.tar.xz`, where DIR is a
fresh clone of the commit at a path of no real machine (README.md says why). Only the command line
of that commit is used, so a later release freezes its own store in the same way.
"""

import argparse
import contextlib
import inspect
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

DONE, REFUSED = 0, 3
FIRST_ROWS, ROWS = 110, 160
MODULES = (
    "argparse", "ast", "asyncio", "calendar", "collections", "csv", "datetime", "decimal",
    "difflib", "email.message", "fractions", "heapq", "inspect", "io", "ipaddress", "json",
    "logging", "mailbox", "pathlib", "random", "re", "shutil", "socket", "statistics", "string",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "tokenize", "unittest", "zipfile",
)  # fmt: skip
# What is packed: what a user would have to keep, and no copy of what they could make again.
PACKED = (".nightloom", ".dvc/cache", "data", "dvc.lock", "said")
LEFT_OUT = (
    ".nightloom/prefect", ".nightloom/logs", ".nightloom/tmp", ".nightloom/downloads",
    ".nightloom/site-cache", "data/scratch",
)  # fmt: skip
NOT_PACKED = (
    "__pycache__",
    "scratch",
    "tmp",
    "night.lock",
    "night.lock.pid",
    "promotion.lock",
    "promotion.lock.pid",
    "promotion.next.pid",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.frozen.make", description=__doc__)
    parser.add_argument("--checkout", type=Path, required=True, help="a fresh clone")
    parser.add_argument("--out", type=Path, required=True, help="(written) a .tar.xz")
    options = parser.parse_args(arguments)
    checkout = options.checkout.resolve()
    live_through_four_nights(checkout)
    tell(checkout)
    pack(checkout, options.out)
    return 0


def live_through_four_nights(checkout: Path) -> None:
    """Two promotions, a rollback, a refusal, and a night of the checkout's own that asks."""
    rows = list(docstrings())
    write_embedder(checkout / "embedder")
    write_rows(checkout, rows[:FIRST_ROWS])
    mild = common(checkout) + rules(checkout) + settings("release.production=automatic")
    night(checkout, DONE, "promoted", *mild)
    write_rows(checkout, rows)
    night(checkout, DONE, "promoted", *mild)
    nightloom(checkout, DONE, "rollback", "--by", "ann", "--reason", "version 1 answered better")
    strict = settings("finetuning.seed=1", "release.production=automatic")
    night(checkout, REFUSED, "refused", *common(checkout), *strict)
    own = rules(checkout) + settings("finetuning.seed=2", "release.production=approval")
    write_params(checkout, [*common(checkout), *own])
    found = night(checkout, DONE, "promoted")
    assert any("awaits approval for production" in text for text in found["reasons"]), found


def common(checkout: Path) -> list[str]:
    """The tiny preset, reading our own rows and an embedder of a few kilobytes."""
    chosen = settings(
        "ingestion.sources=[{name: files, kind: files}]",
        "ingestion.source_defaults.limit=null",
        f"ingestion.source_defaults.files.root={checkout / 'incoming'}",
        "ingestion.source_defaults.files.records=[records.jsonl]",
        "ingestion.source_defaults.files.documents=[documents.jsonl]",
        f"models.embedder.source={checkout / 'embedder'}",
    )
    return ["--preset", "tiny", *chosen]


def rules(checkout: Path) -> list[str]:
    """Every rule warns: two layers answer nothing well, and a promotion is what is wanted."""
    found = yaml.safe_load((checkout / "params" / "promotion.yaml").read_text(encoding="utf-8"))
    return settings(*(f"promotion.rules.{name}.severity=warn" for name in found["rules"]))


def settings(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def night(checkout: Path, code: int, verdict: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nightloom(checkout, code, "run", "--json", *options))
    assert found["verdict"] == verdict, found
    print(f"night {found['night']}: {verdict}, {found['aliases']}", flush=True)
    return found


def nightloom(checkout: Path, code: int, *arguments: str) -> str:
    """What a command of the checkout's own code printed."""
    ours = ("PREFECT_", "MLFLOW_", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr[-4000:]}"
    return done.stdout


def docstrings() -> Iterator[dict[str, Any]]:
    """Records with the document that answers each: functions of the standard library."""
    count = 0
    for module in MODULES:
        for name, value in sorted(vars(import_module(module)).items()):
            text = inspect.getdoc(value) or ""
            first = " ".join(text.partition("\n\n")[0].split())
            if name.startswith("_") or not callable(value) or not 25 < len(first) < 160:
                continue
            if getattr(value, "__module__", None) != module:
                continue
            yield {"id": f"{module}.{name}", "answer": first, "text": " ".join(text.split())[:600]}
            count += 1
            if count == ROWS:
                return


def write_rows(checkout: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as records and documents; every eighth asks about what does not exist."""
    folder = checkout / "incoming"
    folder.mkdir(exist_ok=True)
    records, documents = [], []
    origin = {"source": "stdlib", "license": "PSF"}
    for number, row in enumerate(rows):
        name = row["id"]
        known = {"question": f"What does {name} do?", "answer": row["answer"], "slice": "purpose"}
        records.append({"id": name, **known, "documents": [name], **origin})
        documents.append({"id": name, "title": name, "text": row["text"], **origin})
        if number % 8 == 7:
            module, _, function = name.rpartition(".")
            question = f"What does {module}.{function[::-1]} do?"
            unknown = {"answer": "I don't know.", "slice": "unanswerable"}
            records.append({"id": f"no-{name}", "question": question, **unknown, **origin})
    for file, items in (("records", records), ("documents", documents)):
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{file}.jsonl").write_text(text, encoding="utf-8")


def write_embedder(folder: Path) -> None:
    """Write a one-layer BERT with random weights and a tokenizer of single bytes and pairs."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["[PAD]"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator((row["text"] for row in docstrings()), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]")
    config = BertConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(3)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_params(checkout: Path, options: Sequence[str]) -> None:
    """Write the options of a run into the checkout's own params, as a user would."""
    preset = checkout / "params" / "presets" / f"{options[1]}.yaml"
    chosen = yaml.safe_load(preset.read_text(encoding="utf-8"))
    for text in options[3::2]:
        key, _, value = text.partition("=")
        chosen[key] = yaml.safe_load(value)
    for key, value in chosen.items():
        stem, *names = key.split(".")
        path = checkout / "params" / f"{stem}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        place = content
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def tell(checkout: Path) -> None:
    """Keep what the commit itself says of the store, which later ones are held against."""
    lines = {
        "status": ("status",),
        "ledger": ("ledger", "--limit", "1000"),
        "verify": ("ledger", "verify"),
        "compare": ("compare", "1", "2"),
        "prune": ("prune",),
    }
    (checkout / "said").mkdir(exist_ok=True)
    for name, words in lines.items():
        text = nightloom(checkout, DONE, *words, "--json")
        (checkout / "said" / f"{name}.json").write_text(text, encoding="utf-8")


def pack(checkout: Path, out: Path) -> None:
    """Pack what the nights left, with the times and owners of nobody."""
    with contextlib.closing(sqlite3.connect(checkout / ".nightloom" / "mlflow.db")) as database:
        database.execute("VACUUM")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    with tarfile.open(partial, "w:xz", preset=9) as archive:
        for name in PACKED:
            if (checkout / name).exists():
                archive.add(checkout / name, name, filter=anonymous)
    shutil.move(partial, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def anonymous(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """An entry without its owner and its time; None for what is not packed.

    Links are made anew by the night that needs them.
    """
    if item.issym() or item.name.startswith(LEFT_OUT) or Path(item.name).name in NOT_PACKED:
        return None
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    item.mtime = 0
    return item


if __name__ == "__main__":
    sys.exit(main())
