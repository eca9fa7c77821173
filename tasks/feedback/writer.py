"""Keep served questions and feedback: entries on standard input, what became of each on output.

The first line says where. Personal data are masked before anything is written. The server starts
it (`tasks.serving.exchange_log`); it ends with its input.
"""

import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.feedback.exchanges import ENTRY, Exchange, Feedback, LogPlace, Outcome
from tasks.feedback.params import LogParams, Params
from tasks.privacy.masking import masked, masking_kinds
from tasks.privacy.params import PersonalDataParams
from tasks.services.stores import Stores
from tasks.stage.params import StageParams, load_params, read_yaml, validate_params

if TYPE_CHECKING:
    from tasks.feedback.traces import ServedTraces

LOGGER = logging.getLogger(__name__)
_PRUNE_SECONDS = 3600.0


class _Masking(StageParams):
    personal_data: PersonalDataParams


class PersonalDataFoundError(Exception):
    """A text holds what params let nobody keep."""


class Masker:
    """Masks texts as curation does, by the same params."""

    def __init__(self, params: PersonalDataParams) -> None:
        self._actions = params.model_dump()
        self._kinds = masking_kinds(self._actions)
        self._regions = params.phone_regions

    def masked(self, text: str) -> str:
        """Return the text with a placeholder for each piece.

        Raises:
            PersonalDataFoundError: it holds a kind whose rows params drop.
        """
        found_text, found = masked(text, self._kinds, self._regions)
        for kind in found:
            if self._actions[kind] == "drop":
                raise PersonalDataFoundError(f"it holds personal data ({kind}), which params drop")
        return found_text

    def exchange(self, exchange: Exchange) -> Exchange:
        """Return the exchange with all texts masked."""
        shown = [
            passage.model_copy(update={"text": self.masked(passage.text)})
            for passage in exchange.passages
        ]
        return exchange.model_copy(
            update={
                "turns": tuple((role, self.masked(text)) for role, text in exchange.turns),
                "answer": self.masked(exchange.answer),
                "passages": tuple(shown),
            }
        )

    def feedback(self, feedback: Feedback) -> Feedback:
        """Return the feedback with all texts masked."""
        texts = {"answer": feedback.answer, "note": feedback.note}
        changed = {name: self.masked(text) for name, text in texts.items() if text is not None}
        return feedback.model_copy(update=changed)


class Writer:
    """Keeps entries in a store that is opened when the first one comes, and after a failure."""

    def __init__(self, place: LogPlace, params: LogParams, masker: Masker) -> None:
        self._place = place
        self._params = params
        self._masker = masker
        self._traces: ServedTraces | None = None
        self._prune_at = 0.0

    def keep(self, entry: Exchange | Feedback) -> Outcome:
        """Keep an entry, and return what became of it; whatever fails is told, not raised."""
        try:
            if isinstance(entry, Exchange):
                exchange = self._masker.exchange(entry)
                self._opened().write(exchange)
                self._prune()
                return Outcome(outcome="kept")
            feedback = self._masker.feedback(entry)
            known = self._opened().add(feedback)
            return Outcome(outcome="kept" if known else "unknown")
        except PersonalDataFoundError as error:
            return Outcome(outcome="left_out", error=str(error))
        except Exception as error:  # noqa: BLE001  stores, disks and HTTP each fail in their own way
            self._traces = None
            LOGGER.warning("an entry was not kept: %s: %s", type(error).__name__, error)
            return Outcome(outcome="failed", error=f"{type(error).__name__}: {error}"[:500])

    def _opened(self) -> "ServedTraces":
        if self._traces is None:
            # Deferred: MLflow takes seconds to import.
            from tasks.feedback.traces import ServedTraces

            stores = Stores(self._place.tracking_uri, None, self._place.artifacts)
            self._traces = ServedTraces(stores, retry_seconds=0.0)
        return self._traces

    def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + _PRUNE_SECONDS
        gone = self._opened().prune(self._params, datetime.now(UTC))
        if gone:
            LOGGER.info("%d served questions beyond params/serving.yaml's bounds are deleted", gone)


def read_writer(place: LogPlace) -> Writer:
    """Return the writer that a place asks for.

    Raises:
        ConfigError: its params are missing or wrong.
    """
    folder = Path(place.params)
    file = folder / "curation.yaml"
    content = {"personal_data": read_yaml(file).get("personal_data")}
    masking = validate_params(_Masking, content, [file]).personal_data
    log = load_params(Params, [folder / "serving.yaml"]).serving.log
    return Writer(place, log, Masker(masking))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 once standard input has ended."""
    assert not arguments
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    lines = iter(sys.stdin)
    writer = read_writer(LogPlace.model_validate_json(next(lines)))
    for line in lines:
        sys.stdout.write(writer.keep(ENTRY.validate_json(line)).line())
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
