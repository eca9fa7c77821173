"""Curation of many made records: seconds, and megabytes above the start. One argument: how many."""

import json
import sys
import tempfile
import time
from pathlib import Path

from tasks.curation.__main__ import Paths, run
from tasks.curation.params import Params
from tasks.stage.params import load_params
from tests.benchmarks._memory import peak_megabytes
from tests.builders.intake_places import make_accepted


def curate(accepted: Path, root: Path) -> None:
    """Run the stage on a folder of accepted rows."""
    params = load_params(Params, [Path("params/curation.yaml")])
    run(params, Paths(accepted, root / "curated", root / "report", root / "scratch"))


def main() -> int:
    """Measure and print; 0 when it ran."""
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        accepted = make_accepted(root / "accepted", count)
        started = time.perf_counter()
        megabytes = peak_megabytes(curate, accepted, root)
        seconds = round(time.perf_counter() - started, 1)
        kept = json.loads((root / "report" / "metrics.json").read_text())["kept"]
    print(json.dumps({"rows": count, "seconds": seconds, "megabytes": megabytes, "kept": kept}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
