"""The evidence that a verdict rests on: paths of files, and their hashes."""

from dataclasses import dataclass
from pathlib import Path

from tasks.promotion.reason import Model
from tasks.records.likelihoods import LIKELIHOODS_FILE
from tasks.records.predictions import PREDICTIONS_FILE
from tasks.stage.errors import DataError
from tasks.stage.metrics import METRICS_FILE
from tasks.stage.outputs import file_sha256

SCORED_FILES = (METRICS_FILE, PREDICTIONS_FILE)
MEASURED_FILES = (METRICS_FILE, LIKELIHOODS_FILE)


@dataclass(frozen=True)
class Reigning:
    """The version that reigns, `ALIAS:NUMBER`, and how it did.

    `system` is what it is called in the report on its answers; `likely` is the report that holds
    the likelihoods of its `model`.
    """

    name: str
    report: Path
    system: str
    likely: Path
    model: Model


@dataclass(frozen=True)
class Evidence:
    """All that `decide` reads.

    The first four are the reports of tonight's stages. `parity` is the file of what the registered
    versions answered over HTTP; `bundle_sha256` is the hash of the
    bundle's manifest that it must name. `reigning` is None where the base reigns, or the candidate
    itself does.
    """

    validation: Path
    curation: Path
    evaluation: Path
    packaging: Path
    parity: Path
    bundle_sha256: str
    reigning: Reigning | None

    def files(self) -> dict[str, Path]:
        """Every file by what it is evidence of.

        Raises:
            DataError: one of them is not there.
        """
        found = {
            "validation": self.validation / METRICS_FILE,
            "curation": self.curation / METRICS_FILE,
            "parity": self.parity,
            **{f"packaging/{name}": self.packaging / name for name in MEASURED_FILES},
            **{f"evaluation/{name}": self.evaluation / name for name in SCORED_FILES},
        }
        if self.reigning is not None:
            report, likely = self.reigning.report, self.reigning.likely
            found |= {f"reigning/{name}": report / name for name in SCORED_FILES}
            found |= {f"reigning/likely/{name}": likely / name for name in MEASURED_FILES}
        missing = [str(path) for path in found.values() if not path.exists()]
        if missing:
            raise DataError(
                f"there is no {', '.join(missing)}; nothing is decided without evidence",
                "run `nightloom run`, or `dvc checkout` to bring the last reports back",
            )
        return found

    def digests(self) -> dict[str, str]:
        """The SHA-256 of every file, by what it is evidence of.

        Raises:
            DataError: one of them is not there.
        """
        return {name: file_sha256(path) for name, path in self.files().items()}
