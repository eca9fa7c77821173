"""A registry of small bundles in a store of its own, and what a release does with them."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlflow.tracking import MlflowClient

from tasks.orchestration.tracking import Tracker
from tasks.records.schema import ServedModel
from tasks.registry.aliases import AliasPlan, aliases_after
from tasks.registry.audit import audit
from tasks.registry.client import Registry
from tasks.registry.ledger import Entry, Ledger
from tasks.registry.lock import PromotionLock
from tasks.registry.params import Params, ReleaseParams
from tasks.registry.promote import promote, record_verdict
from tasks.registry.register import nominate
from tasks.registry.transactions import Intent, new_intent, reconcile
from tasks.registry.versions import VERDICT_TAG, Version, promotion_key
from tasks.services.stores import Stores
from tasks.stage.outputs import write_manifest
from tasks.stage.params import load_params

PARAMS: ReleaseParams = load_params(Params, [Path("params/release.yaml")]).release


def policies(staging: str = "automatic", production: str = "manual") -> ReleaseParams:
    return PARAMS.model_copy(update={"staging": staging, "production": production})


def make_template(folder: Path) -> Path:
    """An empty MLflow database, which takes seconds to make and none to copy."""
    path = folder / "template.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def _relocate(database: Path, old: Path, new: Path) -> None:
    """Let a copied database name its own artifacts."""
    columns = {
        "experiments": ("artifact_location",),
        "runs": ("artifact_uri",),
        "model_versions": ("source", "storage_location"),
    }
    with closing(sqlite3.connect(database)) as connection:
        for table, names in columns.items():
            for name in names:
                connection.execute(
                    f"UPDATE {table} SET {name} = replace({name}, ?, ?)", (str(old), str(new))
                )
        connection.commit()


@dataclass(frozen=True)
class Shop:
    """One store, with what decides about its versions; opened by a server where it has one."""

    root: Path
    server: str | None = None

    @classmethod
    def open(cls, root: Path, template: Path) -> "Shop":
        """A shop of its own, with all that another one's database and artifacts hold."""
        root.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template, root / "mlflow.db")
        artifacts = template.parent / "artifacts"
        if artifacts.exists():
            shutil.copytree(artifacts, root / "artifacts")
            _relocate(root / "mlflow.db", template.parent, root)
        return cls(root)

    @property
    def database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    @cached_property
    def stores(self) -> Stores:
        if self.server is not None:
            return Stores(self.server, None)
        return Stores(f"sqlite:///{self.database}", self.root / "artifacts")

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.stores)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.stores, self.registry)

    @cached_property
    def client(self) -> MlflowClient:
        return MlflowClient(self.stores.tracking_uri)

    @property
    def lock(self) -> PromotionLock:
        return PromotionLock(self.root / "promotion.lock", shared=False, wait_seconds=600.0)

    def folder(self, text: str) -> Path:
        """A model's folder as registration writes it: the bundle below `artifacts`."""
        folder = self.root / "made" / text
        bundle = folder / "artifacts" / "bundle"
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "settings.json").write_text(text)
        (bundle / "golden.json").write_text("[]")
        write_manifest(bundle)
        return folder

    def key(self, text: str) -> str:
        return promotion_key(self.folder(text) / "artifacts" / "bundle")

    def register(self, text: str, model: ServedModel = "adapter") -> Version:
        """The version of a bundle, registered and nominated."""
        version = self._make(text, model)
        nominate(self.registry, version)
        return version

    def _make(self, text: str, model: ServedModel) -> Version:
        run = Tracker(self.stores).begin_night(text, {})
        key = self.key(text)
        return self.registry.find(model, key) or self.registry.register(
            model, key, lambda: self.folder(text), run, {"prompt_version": "1"}
        )

    def judge(
        self, version: Version, *, promoted: bool = True, params: ReleaseParams = PARAMS
    ) -> Entry:
        """The entry of a verdict."""
        return record_verdict(
            self.ledger,
            version,
            params,
            promoted=promoted,
            reason="token_f1 +0.20 [+0.10, +0.30] over the base",
            evidence={"metrics": "a" * 64, "reigning": "base"},
            tags={VERDICT_TAG: "promoted" if promoted else "refused", "judged_by": "rules"},
        )

    def release(
        self, text: str, params: ReleaseParams = PARAMS, model: ServedModel = "adapter"
    ) -> None:
        """A night's release: reconciled, registered, nominated, judged and applied."""
        with self.lock.held():
            reconcile(self.ledger, model)
            version = self._make(text, model)
        with self.lock.held():
            reconcile(self.ledger, model)
            nominate(self.registry, version)
            version = self.registry.version(model, version.number)
            if version.tags.get("judged_by") != "rules":
                self.judge(version, params=params)

    def promote(
        self,
        number: int | None = None,
        to: str = "production",
        *,
        despite_refusal: bool = False,
    ) -> Entry | None:
        """The entry of a promotion by hand."""
        assert to in ("staging", "production")
        with self.lock.held():
            return promote(
                self.ledger,
                "adapter",
                number,
                "staging" if to == "staging" else "production",
                by="ann",
                reason="checked by hand",
                despite_refusal=despite_refusal,
                downloads=self.downloads,
            )

    def intent(self, number: int) -> Intent:
        """A decision to bring a version to production, which nothing of is done."""
        after = aliases_after(self.aliases(), number, "production")
        version = self.registry.version("adapter", number)
        return new_intent(
            self.ledger,
            version,
            "moved",
            by="ann",
            reason="because",
            plan=AliasPlan(after, None),
        )

    def aliases(self, model: ServedModel = "adapter") -> dict[str, int]:
        return self.registry.aliases(model)

    def stage(self, number: int) -> str:
        return self.registry.version("adapter", number).tags["stage"]

    def kinds(self) -> list[str]:
        return [link.entry.kind for link in self.ledger.links()]

    def faults(self) -> tuple[str, ...]:
        return audit(self.ledger).faults
