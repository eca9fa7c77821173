"""What a folder's `settings.json` says of the bundle, and of the release that made it."""

from pathlib import Path

import pytest

from tasks.answering.release_bundle import BundleSettings
from tasks.stage.errors import ConfigError


def test_a_folder_without_settings_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a release bundle") as told:
        BundleSettings.read(tmp_path)
    assert "data/bundle" in told.value.remedy


@pytest.mark.parametrize(
    "content", ["{}", '{"prompting": {"passages": "five"}}', "[]", '"text"', "no JSON"]
)
def test_a_bundle_of_another_release_says_with_what_to_serve_it(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ConfigError, match="is of another release of Nightloom") as told:
        BundleSettings.read(tmp_path)
    assert "the release that made it" in told.value.remedy
    assert "git commit" in told.value.remedy
