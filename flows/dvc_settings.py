"""DVC's settings, read and written by DVC: of a checkout, and of workspaces with its cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.stage.errors import ConfigError


def keep_site_cache(root: Path, folder: Path) -> None:
    """Let a plain `dvc` in a checkout use `folder` as its site cache, unless its config names one.

    It is written to `.dvc/config.local`, which git ignores, and follows a checkout that was moved.

    Raises:
        ConfigError: DVC can't read its config.
    """
    local = root / ".dvc" / "config.local"
    lines = local.read_text(encoding="utf-8").splitlines() if local.exists() else []
    if str(folder) in (line.partition("=")[2].strip(" \"'") for line in lines):
        return
    with _told(root):
        config = _config(root)
        given = config["core"].get("site_cache_dir")
        if given is not None and Path(given).parts[-3:] != folder.parts[-3:]:
            return
        with config.edit("local") as changed:
            changed.setdefault("core", {})["site_cache_dir"] = str(folder)


def copy_settings(source: Path, target: Path) -> None:
    """Give the folder `target` the DVC settings of `source`, without git and with its cache.

    Paths lead where they led, though they may count from the folder of the config.

    Raises:
        ConfigError: DVC can't read them.
    """
    (target / ".dvc").mkdir(parents=True, exist_ok=True)
    with _told(source):
        given, written = _config(source), _config(target, validate=False)
        # Where nothing says so, DVC's cache lies beside the config.
        shared = given["cache"].get("dir", source / ".dvc" / "cache")
        for level in ("repo", "local"):
            settings = _absolute(given.load_one(level))
            if level == "repo":
                settings["core"]["no_scm"] = "true"
                settings["cache"]["dir"] = str(shared)
            with written.edit(level, validate=False) as changed:
                changed.clear()
                changed.update(settings)


def _absolute(settings: Any) -> Any:
    """Return settings with plain texts for the paths that DVC counts from the config's folder."""
    if isinstance(settings, dict):
        return {name: _absolute(value) for name, value in settings.items()}
    return str(settings) if type(settings).__name__ == "RelPath" else settings


def _config(root: Path, *, validate: bool = True) -> Any:
    """Return DVC's config of a folder, which it writes as it reads it: in UTF-8.

    DVC 3.67's own writer raises UnicodeEncodeError where a path is not ASCII.
    """
    # Deferred: every command comes here, and few need DVC.
    from configobj import ConfigObj
    from dvc import config as dvc_config

    class Utf8Config(dvc_config.Config):  # type: ignore[misc]
        def _save_config(self, level: str, conf_dict: dict[str, Any]) -> None:
            lines = ConfigObj(dvc_config._pack_named(conf_dict), encoding="utf-8")
            path = Path(self.files[level])
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as stream:
                lines.write(stream)

    return Utf8Config(str(root / ".dvc"), validate=validate)


@contextmanager
def _told(root: Path) -> Iterator[None]:
    """Raise an error of DVC's about a folder's settings as ours."""
    try:
        yield
    except Exception as error:
        if type(error).__module__ != "dvc.config":
            raise
        raise ConfigError(
            f"DVC can't read its config in {root / '.dvc'}: {error}", "mend what DVC names there"
        ) from error
