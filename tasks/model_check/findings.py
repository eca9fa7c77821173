"""What the check of a base found, as files, tables and errors tell it; no torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically

RECORD_SUFFIX = ".check.json"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fault` and `remedy` are None where a night can go on."""

    name: str
    found: str
    fault: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, name: str, error: ConfigError) -> "Finding":
        """Return the finding that an error is."""
        return cls(name, "refused", error.message, error.remedy)


@dataclass(frozen=True)
class CheckRecord:
    """A check that a base passed: of which weights, by which params and libraries.

    `key` stands for all that its outcome depends on; `template` is what was asked of the chat
    template, as JSON.
    """

    key: str
    digest: str
    template: str
    findings: tuple[Finding, ...]

    @classmethod
    def beside(cls, manifest: Path) -> "CheckRecord | None":
        """Return the record beside a base's manifest, None where there is none to be read."""
        try:
            content = json.loads(_record_path(manifest).read_text(encoding="utf-8"))
            findings = tuple(Finding(**item) for item in content.pop("findings"))
            return cls(**content, findings=findings)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, manifest: Path) -> None:
        """Write the record beside a base's manifest."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        write_atomically(_record_path(manifest), text)


def _record_path(manifest: Path) -> Path:
    return manifest.with_suffix(RECORD_SUFFIX)


def refuse(findings: Iterable[Finding]) -> None:
    """Check that no finding is a fault.

    Raises:
        ConfigError: some are, each with what to do.
    """
    faults = [finding for finding in findings if finding.fault is not None]
    if not faults:
        return
    if len(faults) == 1:
        raise ConfigError(str(faults[0].fault), str(faults[0].remedy))
    raise ConfigError(
        f"{len(faults)} faults, each of which would end a night later:\n{_listed(faults)}",
        "; ".join(dict.fromkeys(str(finding.remedy) for finding in faults)),
    )


def _listed(faults: Sequence[Finding]) -> str:
    return "\n".join(f"  {finding.name}: {finding.fault}" for finding in faults)
