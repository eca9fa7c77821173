"""The stage that trains search's embedder, run on the tiny models."""

from pathlib import Path
from typing import Any

from tasks.retriever_training.__main__ import Paths, run
from tasks.retriever_training.params import Params
from tasks.stage.params import read_yaml

# Enough for a tiny encoder to learn by heart which passage a question names.
LEARNED = {
    "enabled": True,
    "learning_rate": 2.0e-2,
    "epochs": 20,
    "batch_pairs": 4,
    "hard_negatives": 1,
    "held_out_share": 0.2,
}
# What twelve questions can decide by.
GATE = {"least_questions": 4, "resamples": 500, "recall_at": 1, "confidence": 0.6}


def retriever_params(prompting: Any, compute: Any, gate: Any = GATE, **changes: Any) -> Params:
    """Params as they are in the repository, but for a gate and these changes."""
    settings = read_yaml(Path("params/retriever_training.yaml"))
    settings |= changes | {"gate": settings["gate"] | gate}
    return Params.model_validate(
        {"retriever_training": settings, "prompting": prompting, "compute": compute}
    )


def train_into(root: Path, params: Params, tiny: Any, **changes: Path) -> Path:
    """Run the stage with its outs below a folder: `retriever` and `report`; return the former."""
    given = {name: getattr(tiny, name) for name in ("curated", "base", "embedder")}
    run(
        params,
        Paths(
            **given | changes,
            model_store=tiny.store,
            scratch=root / "scratch",
            retriever=root / "retriever",
            retriever_training_report=root / "report",
        ),
    )
    return root / "retriever"
