"""Runs in MLflow whose reports are kept, and files of the others; what their nights' locks name."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tasks.orchestration.tracking import NOTES_FILE, is_run_id
from tasks.services import run_tags
from tasks.services.stores import EXPERIMENT, Stores, find_experiment, local_path, retrying_client

_PAGE = 500
LOCKS = "versions"  # the folder of a night's run with its dvc.lock and raw.dvc
_LOCK_NAMES = (".lock", ".dvc")


class KeptRuns:
    """The runs of the last nights and of versions' nights, with the stages that these link to."""

    def __init__(self, stores: Stores, *, nights: int, versions: Collection[str]) -> None:
        """Read all runs; `versions` are the ids of the runs that versions came from."""
        self._client = retrying_client(MlflowClient, stores.tracking_uri)
        self._artifacts = stores.artifacts
        self._runs = {run.info.run_id: run for run in self._read()}
        named = [run for run in self._runs.values() if run_tags.NIGHT in run.data.tags]
        self._nights = [run.info.run_id for run in named[:nights]]
        self._versions = [run_id for run_id in versions if run_id in self._runs]

    def locks(self) -> Mapping[str, list[str]]:
        """Return the texts of the locks of versions' nights and of the last ones."""
        held = {"versions": self._versions, "the last nights": self._nights}
        return {
            who: [text for one in ids for text in self._locks(one)] for who, ids in held.items()
        }

    def old_files(self) -> list[Path]:
        """Return the files of runs that are not kept, but notes and locks, which are small.

        None of a store whose artifacts lie elsewhere: these are not ours to delete.
        """
        if self._artifacts is None:
            return []
        root, kept = self._artifacts.resolve(), self._kept()
        found: list[Path] = []
        for run in self._runs.values():
            folder = local_path(run.info.artifact_uri)
            if run.info.run_id in kept or folder is None or run.info.status == "RUNNING":
                continue
            if folder.resolve().is_relative_to(root) and folder.resolve() != root:
                found += _removable(folder)
        return found

    def _kept(self) -> set[str]:
        kept = {*self._nights, *self._versions}
        kept |= {stage for one in list(kept) for stage in self._stages(one)}
        children = {
            run_id
            for run_id, run in self._runs.items()
            if run.data.tags.get(run_tags.PARENT) in kept
        }
        # What a version will be made of: the promotion that was cut short finds it by the tag.
        uploaded = {
            run_id
            for run_id, run in self._runs.items()
            if any(tag.startswith(f"{run_tags.UPLOADED}.") for tag in run.data.tags)
        }
        return kept | children | uploaded

    def _stages(self, run_id: str) -> list[str]:
        """Return the runs of the stages that a night links to."""
        if NOTES_FILE not in self._listed(run_id):
            return []
        found = json.loads(self._text(run_id, NOTES_FILE)).get("stages", {})
        return [stage for stage in found.values() if is_run_id(stage)]

    def _locks(self, run_id: str) -> Iterator[str]:
        for path in self._listed(run_id, LOCKS):
            if path.endswith(_LOCK_NAMES):  # params and models lie beside them
                yield self._text(run_id, path)

    def _listed(self, run_id: str, folder: str = "") -> list[str]:
        """Return the paths of what lies in a folder of a run's artifacts."""
        local = local_path(self._runs[run_id].info.artifact_uri)
        if local is None:
            return [item.path for item in self._client.list_artifacts(run_id, folder or None)]
        return [path.relative_to(local).as_posix() for path in sorted((local / folder).glob("*"))]

    def _text(self, run_id: str, path: str) -> str:
        """Return the text of an artifact; without asking MLflow's server where it lies here.

        Every night reads those of all nights that are kept: of thirty, 300 requests.
        """
        local = local_path(self._runs[run_id].info.artifact_uri)
        file = local / path if local else Path(self._client.download_artifacts(run_id, path))
        return file.read_text(encoding="utf-8")

    def _read(self) -> Iterator[Run]:
        """Yield the runs of nights, stages and trials, newest first."""
        experiment = find_experiment(self._client, EXPERIMENT)
        token: str | None = None
        while experiment is not None:
            page = self._client.search_runs(
                [experiment.experiment_id], max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def _removable(folder: Path) -> list[Path]:
    """Return the files of a run's folder that only its reports need.

    A version's own files lie in its night's run, which is kept while the version is there.
    """
    spared = (folder / LOCKS, folder / NOTES_FILE)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.is_relative_to(own) for own in spared)
    ]
