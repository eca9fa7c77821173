"""Params are strict, and every error of every file is told at once."""

from pathlib import Path

import pytest

from flows.overrides import read_overrides
from tasks.finetuning.params import Params
from tasks.promotion.params import Params as PromotionFile
from tasks.stage.errors import ConfigError
from tasks.stage.params import load_params

FILES = [Path("params") / f"{name}.yaml" for name in ("finetuning", "models", "compute")]


def changed(tmp_path: Path, name: str, old: str, new: str) -> list[Path]:
    text = (Path("params") / f"{name}.yaml").read_text()
    assert old in text
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace(old, new))
    return [path if file.stem == name else file for file in FILES]


def test_the_projects_own_params_are_valid() -> None:
    assert load_params(Params, FILES).finetuning.method == "qlora"


def test_a_number_that_yaml_reads_as_text_is_explained(tmp_path: Path) -> None:
    files = changed(tmp_path, "finetuning", "learning_rate: 6.0e-4", "learning_rate: 6e-4")
    with pytest.raises(ConfigError, match=r"finetuning\.yaml: learning_rate.*3\.0e-4"):
        load_params(Params, files)


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    files = changed(tmp_path, "finetuning", "rank: 16", "rank: 0\nrnak: 4")
    with pytest.raises(ConfigError) as caught:
        load_params(Params, files)
    assert "2 errors" in str(caught.value)
    assert "rank" in str(caught.value)
    assert "rnak" in str(caught.value)


def test_a_key_of_an_older_version_is_refused_with_its_new_name(tmp_path: Path) -> None:
    text = Path("params/promotion.yaml").read_text().replace("gain_over_control", "gain_over_twin")
    (tmp_path / "promotion.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"called rules\.gain_over_control now"):
        load_params(PromotionFile, [tmp_path / "promotion.yaml"])
    with pytest.raises(ConfigError) as caught:
        read_overrides(Path(), None, ["promotion.rules.gain_over_twin.min_gain=0.1"])
    assert "promotion.rules.gain_over_control.min_gain" in caught.value.remedy


def test_a_missing_file_names_itself_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        load_params(Params, [tmp_path / "finetuning.yaml", *FILES[1:]])
    assert "git checkout" in caught.value.remedy
