"""The whole stage: students and controls learn, are saved, load again and are told apart."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tasks.distillation.__main__ import Paths, run
from tasks.distillation.params import Params
from tasks.distillation.pruning import prune
from tasks.distillation.students import check_tokenizers
from tasks.models.loading import load_adapted, load_student
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.prompting.files import PROMPT
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import read_curve, read_metrics
from tasks.stage.outputs import folder_files, verified, write_manifest
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, read_yaml
from tasks.task_types.table import TrainedTask
from tests.builders.known_templates import rendered_here
from tests.unit.conftest import Tiny

pytestmark = pytest.mark.slow

# A teacher without gold: tiny models know nothing, and gold would take them away from it.
OBJECTIVE = read_yaml(Path("params/distillation.yaml"))["objective"] | {
    "forward_kl": 1.0,
    "cross_entropy": 0.0,
    "temperature": 1.0,
}
QUICK: dict[str, Any] = {
    "objective": OBJECTIVE,
    "students": [1],
    "learning_rate": 3.0e-3,
    "calibration_tokens": 4000,
    "fitted_learning_rate": 3.0e-3,
    "token_budget": 4000,
    "epochs": 2,
    "evaluations": 2,
    "validation_examples": 4,
    "compared_examples": 6,
    "influence_examples": 4,
    "saved_dtype": "float32",
}
LITTLE: dict[str, Any] = {"token_budget": 600, "epochs": 1, "evaluations": 1}


class Stage:
    """Runs the stage with changed params."""

    def __init__(
        self, tiny: Tiny, tokens: Path, prompting: PromptingParams, compute: ComputeParams
    ) -> None:
        self.tiny = tiny
        self.tokens = tokens
        self.shared = {"prompting": prompting, "compute": compute}
        self.models = ModelsParams.model_validate(read_yaml(Path("params/models.yaml")))

    def params(self, **changes: Any) -> Params:
        content = read_yaml(Path("params/distillation.yaml")) | QUICK | changes
        return Params.model_validate(self.shared | {"models": self.models, "distillation": content})

    def run(
        self,
        root: Path,
        student_base: Path | None = None,
        adapter: Path | None = None,
        **changes: Any,
    ) -> Paths:
        paths = Paths(
            tokens=self.tokens,
            base=self.tiny.base,
            student_base=student_base or self.tiny.base,
            model_store=self.tiny.store,
            adapter=adapter or self.tiny.adapter,
            scratch=root / "scratch",
            students=root / "students",
            distillation_report=root / "report",
        )
        run(self.params(**changes), paths)
        return paths


@pytest.fixture(scope="module")
def stage(tiny: Tiny, tokens: Path, prompting: PromptingParams, compute: ComputeParams) -> Stage:
    return Stage(tiny, tokens, prompting, compute)


@pytest.fixture(scope="module")
def distilled(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return stage.run(tmp_path_factory.mktemp("distilled"))


def logits_of(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(10, 40)[None]).logits
    return found


def test_student_and_control_load_by_themselves_and_differ(distilled: Paths) -> None:
    verified(distilled.students)
    place = distilled.students / "1"
    for role in ("student", "control"):
        assert (
            load_student(place / role, device=torch.device("cpu")).model.config.num_hidden_layers
            == 1
        )
        assert AutoTokenizer.from_pretrained(place / role).chat_template
    assert not torch.equal(logits_of(place / "student"), logits_of(place / "control"))


def test_the_student_is_nearer_to_its_teacher_than_its_control(distilled: Paths) -> None:
    found = read_metrics(distilled.distillation_report)["students"]["1"]
    student, control = found["student"], found["control"]
    assert student["divergence"]["value"] < 0.8 * control["divergence"]["value"]
    assert student["divergence"]["value"] < found["start"]["divergence_made"]
    share = found["divergence_share"]
    assert share["low"] <= share["value"] <= share["high"] < 1
    assert share["value"] == pytest.approx(
        student["divergence"]["value"] / control["divergence"]["value"]
    )
    assert student["training"]["steps"] == control["training"]["steps"]
    assert student["training"]["tokens"] == control["training"]["tokens"]


def test_what_fitting_to_the_teachers_states_bought_is_told(distilled: Paths) -> None:
    start = read_metrics(distilled.distillation_report)["students"]["1"]["start"]
    assert start["divergence_fitted"] < start["divergence_made"]
    found = start["reconstruction"]
    assert (
        found["layers"] == json.loads((distilled.students / "1/layers.json").read_text())["layers"]
    )
    assert found["after"][0] < found["before"][0]
    text = (distilled.distillation_report / "report.md").read_text()
    assert f"{start['divergence_made']:.3f}; once its 1 layers from the first gap on were" in text


def student_of(paths: Paths) -> dict[str, Any]:
    """What the metrics say of the student of one layer."""
    found: dict[str, Any] = read_metrics(paths.distillation_report)["students"]["1"]
    return found


@pytest.fixture(scope="module")
def barely_trained(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A student that is fitted on more tokens than it learns, and then learns next to nothing."""
    return stage.run(
        tmp_path_factory.mktemp("barely"),
        calibration_tokens=900,
        fitted_learning_rate=1e-9,
        **LITTLE,
    )


def test_a_training_that_adds_nothing_to_the_fit_is_told_as_such(barely_trained: Paths) -> None:
    report = (barely_trained.distillation_report / "report.md").read_text()
    assert "hardly further than least squares" in report
    assert student_of(barely_trained)["student"]["training"]["peak_learning_rate"] == 1e-9


def test_a_student_that_is_not_fitted_begins_as_it_was_made(stage: Stage, tmp_path: Path) -> None:
    """It learns at a rate of its own, here one at which it does not learn, which is told."""
    paths = stage.run(tmp_path, calibration_tokens=0, learning_rate=1e-9)
    found = student_of(paths)
    assert set(found["start"]) == {"divergence_made"}
    assert found["student"]["training"]["peak_learning_rate"] == 1e-9
    report = (paths.distillation_report / "report.md").read_text()
    assert "Fit of the student: **not_learning**" in report


def test_layers_and_the_scores_behind_them_are_told(distilled: Paths) -> None:
    told = json.loads((distilled.students / "1" / "layers.json").read_text())
    influence = told["influence"]
    assert told["layers"] == [influence.index(max(influence))]
    assert (told["of"], told["rule"]) == (2, "divergence")
    assert (distilled.distillation_report / "influence.png").stat().st_size > 2000


def test_the_report_compares_all_three_by_slice(distilled: Paths) -> None:
    text = (distilled.distillation_report / "report.md").read_text()
    for row in ("| teacher |", "| student |", "| control |", "| purpose |", "| unanswerable |"):
        assert row in text
    assert "nearer to it" in text
    metrics = read_metrics(distilled.distillation_report)["students"]["1"]["student"]
    assert set(metrics["slices"]) == {"purpose", "unanswerable"}
    for name in ("loss-student-1.png", "loss-control-1.png"):
        assert (distilled.distillation_report / name).exists()


def test_each_training_has_curves_of_its_own_and_the_stage_one_progress(distilled: Paths) -> None:
    for series in ("student-1", "control-1"):
        assert read_curve(distilled.scratch, "validation_loss", series=series)
        assert not (distilled.scratch / series / "checkpoints").exists()
    shares = [value for _, value in read_curve(distilled.scratch, "progress")]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(0.4 < share <= 0.5 for share in shares)


def test_a_student_of_shared_weights_is_its_adapter_on_the_base(
    stage: Stage, tmp_path: Path
) -> None:
    paths = stage.run(tmp_path, weights="shared", calibration_tokens=0, learning_rate=1.0e-2)
    place = paths.students / "1"
    kept = json.loads((place / "layers.json").read_text())["layers"]
    on_base = load_adapted(
        stage.tiny.base,
        stage.tiny.store,
        place / "adapter",
        numeric_form=stage.models.numeric_form,
        device=torch.device("cpu"),
    ).model
    with torch.no_grad():
        expected = prune(on_base, kept)(input_ids=torch.arange(10, 40)[None], use_cache=False)
    torch.testing.assert_close(logits_of(place / "student"), expected.logits)
    found = read_metrics(paths.distillation_report)["students"]["1"]
    assert found["student"]["divergence"]["value"] < found["start"]["divergence_made"]
    full = stage.tiny.base
    assert ModelManifest.read(place / "adapter" / "base.json") == ModelManifest.read(full)


def test_a_cached_teacher_teaches_what_one_that_runs_along_does(
    stage: Stage, distilled: Paths, tmp_path: Path
) -> None:
    paths = stage.run(tmp_path, signal="cached", likeliest=4096)
    found, online = (
        read_metrics(item.distillation_report)["students"]["1"]["student"]["divergence"]["value"]
        for item in (paths, distilled)
    )
    assert found == pytest.approx(online, rel=0.05)
    [memo] = (paths.scratch / "teacher").iterdir()
    made, written = folder_files(paths.students), memo.stat().st_mtime_ns
    again = stage.run(tmp_path, signal="cached", likeliest=4096)
    assert memo.stat().st_mtime_ns == written
    assert folder_files(again.students) == made
    memo.unlink()
    assert folder_files(stage.run(tmp_path, signal="cached", likeliest=4096).students) == made
    shares = [value for _, value in read_curve(paths.scratch, "progress")]
    assert shares == sorted(shares)  # an earlier run's are gone


def test_a_student_of_generated_answers_learns_the_teachers_own(
    stage: Stage, tmp_path: Path
) -> None:
    objective = OBJECTIVE | {"forward_kl": 0.0, "cross_entropy": 1.0}
    paths = stage.run(tmp_path, signal="generated", objective=objective)
    [memo] = (paths.scratch / "teacher").glob("answers-*.json")
    answers = json.loads(memo.read_text())
    assert answers
    assert all(len(answer) <= 4 for answer in answers.values())  # prompting.max_new_tokens
    found = read_metrics(paths.distillation_report)["students"]["1"]
    assert found["student"]["divergence"]["value"] < found["control"]["divergence"]["value"]


def test_a_teacher_of_labels_generates_nothing_else(stage: Stage, tmp_path: Path) -> None:
    """Labels that this tokenizer spells in few tokens: an answer has four at most."""
    labels = ("a", "ab", "c")
    adapter = shutil.copytree(stage.tiny.adapter, tmp_path / "adapter")
    TrainedTask("classify", labels, constrained=True).write(adapter / PROMPT)
    write_manifest(adapter)
    objective = OBJECTIVE | {"forward_kl": 0.0, "cross_entropy": 1.0}
    generated = {"signal": "generated", "objective": objective}
    paths = stage.run(tmp_path, adapter=adapter, **generated, **LITTLE)
    [memo] = (paths.scratch / "teacher").glob("answers-*.json")
    base = ModelManifest.read(stage.tiny.base).folder(stage.tiny.store)
    tokenizer = AutoTokenizer.from_pretrained(base)
    said = {tokenizer.decode(ids).strip() for ids in json.loads(memo.read_text()).values()}
    assert said
    assert said <= set(labels)


def other_model(stage: Stage, root: Path, layers: int = 1) -> Path:
    """A smaller model with the tiny base's tokenizer, resolved; the path of its manifest."""
    folder = root / "other"
    base = ModelManifest.read(stage.tiny.base).folder(stage.tiny.store)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(base)
    config.num_hidden_layers = layers
    config.intermediate_size = 48
    config.vocab_size += 64  # padded rows, as many models have
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(folder)
    with rendered_here():
        convert(str(folder), None, "causal_lm", stage.tiny.store).write(root / "other.json")
    return root / "other.json"


def test_another_model_with_the_same_tokenizer_is_a_student_too(
    stage: Stage, tmp_path: Path
) -> None:
    paths = stage.run(tmp_path, other_model(stage, tmp_path), students=["model", 1], epochs=4)
    found = read_metrics(paths.distillation_report)["students"]
    assert set(found) == {"model", "1"}
    for name in found:
        assert (
            found[name]["student"]["divergence"]["value"] < found[name]["start"]["divergence_made"]
        )
    student = AutoModelForCausalLM.from_pretrained(paths.students / "model" / "student")
    assert student.config.intermediate_size == 48


def test_a_model_larger_than_its_teacher_is_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a student is smaller than its teacher"):
        stage.run(tmp_path, other_model(stage, tmp_path, layers=8), students=["model"])


def test_shared_weights_need_a_lora(stage: Stage, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(stage.tiny.adapter, whole)
    (whole / "adapter_model.safetensors").rename(whole / "model.safetensors")
    write_manifest(whole)
    with pytest.raises(ConfigError, match="is no LoRA"):
        stage.run(tmp_path, adapter=whole, weights="shared", calibration_tokens=0)


def test_a_small_validation_split_and_an_objective_without_a_teacher_are_told(
    stage: Stage, barely_trained: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A student is fitted on fewer tokens than it learns or, in another run, on more."""
    objective = OBJECTIVE | {"forward_kl": 0.0, "cross_entropy": 1.0}
    paths = stage.run(
        tmp_path, objective=objective, compared_examples=200, calibration_tokens=300, **LITTLE
    )
    assert "the teacher is of no use" in caplog.text
    assert "compared examples also choose the checkpoints" in caplog.text
    assert "validation split is small" in (paths.distillation_report / "report.md").read_text()
    found = read_metrics(paths.distillation_report)
    assert found["compared_that_choose_checkpoints"] == QUICK["validation_examples"]
    less, more = (
        (one["start"]["reconstruction"]["tokens"], one["student"]["training"]["computed_tokens"])
        for one in map(student_of, (paths, barely_trained))
    )
    assert less[1] == more[1]
    assert less[0] < less[1] < more[0]


def test_a_model_that_is_not_named_is_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params/models.yaml names none"):
        stage.run(tmp_path, students=["model"])


def test_tokenizers_that_differ_are_refused_with_both_sizes_and_a_pair(tiny: Tiny) -> None:
    base = ModelManifest.read(tiny.base).folder(tiny.store)
    ours, theirs = (AutoTokenizer.from_pretrained(base) for _ in range(2))
    check_tokenizers(ours, theirs, "a", "b")
    theirs.chat_template = "{{ messages }}"
    with pytest.raises(ConfigError, match=r"templates of a \(teacher\) and b \(student\) differ"):
        check_tokenizers(ours, theirs, "a", "b")
    theirs.add_tokens(["<new>"])
    with pytest.raises(
        ConfigError, match=rf"has {len(ours)} tokens, b .student. {len(theirs)}"
    ) as e:
        check_tokenizers(ours, theirs, "a", "b")
    assert "SmolLM2" in e.value.remedy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": [2]}, "2 layers is asked for and its teacher has 2"),
        ({"students": [1], "layers": [7]}, "layers are 0 to 1"),
    ],
)
def test_a_student_that_cannot_be_is_refused(
    stage: Stage, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        stage.run(tmp_path, **changes)
    assert not (tmp_path / "students").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": [1, 1]}, "names one twice"),
        ({"students": [3], "layers": [0, 1]}, "Set students: .2."),
        ({"students": ["model"], "weights": "shared", "calibration_tokens": 0},
          "shares no weights"),
        ({"weights": "shared"}, "leaves the base's weights as they are"),
        ({"objective": {**dict.fromkeys(("forward_kl", "reverse_kl", "jensen_shannon",
          "cross_entropy"), 0.0), "jensen_shannon_weight": 0.5, "temperature": 1.0}}, "is 0"),
    ],
)  # fmt: skip
def test_params_that_do_not_go_together_are_refused(
    stage: Stage, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stage.params(**changes)


def test_an_adapter_of_another_base_is_refused(stage: Stage, tiny: Tiny, tmp_path: Path) -> None:
    for weights in ("full", "shared"):
        paths = Paths(
            stage.tokens, other_model(stage, tmp_path), tiny.base, tiny.store, tiny.adapter,
            tmp_path / "scratch", tmp_path / "students", tmp_path / "report",
        )  # fmt: skip
        with pytest.raises(ConfigError, match="was trained on the base"):
            run(stage.params(weights=weights, calibration_tokens=0), paths)
