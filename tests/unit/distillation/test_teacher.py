"""A teacher's memo holds what the teacher says, serves whoever asks, and is checked before use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tasks.distillation.objective import Likeliest
from tasks.distillation.pruning import prune_shared
from tasks.distillation.teacher import CachedTeacher, MemoKey, OnlineTeacher
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.packing import Pack
from tasks.stage.errors import DataError
from tasks.training.batches import make_batches
from tests.unit.conftest import Tiny
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples, read_yaml_training

KEY = MemoKey(teacher="a" * 64, width=2048, likeliest=16, temperature=2.0)
WIDTH = 2048


def teacher_of(tiny: Tiny) -> PreTrainedModel:
    model = make("llama", tiny).model
    use_packed_attention(model)
    return model


def packs(count: int, max_tokens: int = 64) -> list[Pack]:
    made = make_batches(examples(count), read_yaml_training(), max_tokens=max_tokens)
    return [pack for batch in made for pack in batch.packs]


def test_a_memo_says_what_the_teacher_says(tiny: Tiny, tmp_path: Path) -> None:
    model = teacher_of(tiny)
    teacher = CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path)
    assert teacher.prepare(packs(9)) == 9
    for pack in packs(9):
        found = teacher(pack)
        logits = OnlineTeacher(model, WIDTH)(pack)
        assert isinstance(found, Likeliest)
        expected = torch.log_softmax(logits / 2.0, -1).topk(16)
        torch.testing.assert_close(found.log_probs, expected.values, rtol=2e-3, atol=2e-3)
        mass = found.log_probs.exp().sum(-1) + found.log_rest.exp()
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=5e-3)


def test_a_memo_serves_other_packs_reruns_and_more_examples(tiny: Tiny, tmp_path: Path) -> None:
    model = teacher_of(tiny)
    CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path).prepare(packs(6))
    again = CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path)
    assert again.prepare(packs(6, max_tokens=4096)) == 0  # the same examples in other packs
    assert again.prepare([*packs(6), *packs(9)]) == 9  # examples(9) are others than examples(6)
    [whole] = packs(6, max_tokens=4096)[:1]
    torch.testing.assert_close(
        again(whole).log_rest,  # type: ignore[union-attr]
        CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path)(whole).log_rest,  # type: ignore[union-attr]
    )
    for path in tmp_path.iterdir():
        path.unlink()
    assert (
        CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path).prepare(packs(6)) == 6
    )  # deleted, it is made again


def test_a_memo_tells_its_bytes_a_token(tiny: Tiny, tmp_path: Path) -> None:
    teacher = CachedTeacher(OnlineTeacher(teacher_of(tiny), WIDTH), KEY, tmp_path)
    teacher.prepare(packs(5))
    assert teacher.bytes_per_token == 16 * (4 + 2) + 2


def test_a_memo_with_other_settings_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = teacher_of(tiny)
    CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path).prepare(packs(3))
    [made] = tmp_path.iterdir()
    for other in (replace(KEY, likeliest=8), replace(KEY, temperature=1.0)):
        assert (
            CachedTeacher(OnlineTeacher(model, WIDTH), other, tmp_path).prepare([]) == 0
        )  # has a file of its own
        name = f"teacher-{other.teacher[:16]}-{other.digest[:16]}.npz"
        (tmp_path / name).write_bytes(made.read_bytes())
        with pytest.raises(DataError, match="by another teacher or with other settings"):
            CachedTeacher(OnlineTeacher(model, WIDTH), other, tmp_path)


def test_the_memo_of_another_nights_teacher_goes(tiny: Tiny, tmp_path: Path) -> None:
    online = OnlineTeacher(teacher_of(tiny), WIDTH)
    CachedTeacher(online, KEY, tmp_path).prepare(packs(3))
    CachedTeacher(online, replace(KEY, temperature=1.0), tmp_path).prepare(packs(3))
    assert len(list(tmp_path.iterdir())) == 2
    CachedTeacher(online, replace(KEY, teacher="b" * 64), tmp_path).prepare(packs(3))
    [left] = tmp_path.iterdir()
    assert left.name.startswith("teacher-bbbb")


def test_a_damaged_memo_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = teacher_of(tiny)
    CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path).prepare(packs(3))
    [made] = tmp_path.iterdir()
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"can't be read.*") as refused:
        CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path)
    assert "delete" in refused.value.remedy
    made.write_bytes(whole)
    with np.load(made) as content:
        arrays = dict(content)
    arrays["log_probs"][0, 0] = -0.5
    with made.open("wb") as stream:
        np.savez(stream, **arrays)
    with pytest.raises(DataError, match="damaged"):
        CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path)


def test_a_teacher_without_numbers_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = teacher_of(tiny)
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(DataError, match="NaN or infinities"):
        CachedTeacher(OnlineTeacher(model, WIDTH), KEY, tmp_path).prepare(packs(3))


def test_a_student_of_shared_weights_has_them_once_and_answers_as_a_copy_would(
    tiny: Tiny,
) -> None:
    teacher = teacher_of(tiny)
    student = prune_shared(teacher, [0, 2])
    own = {weight.data_ptr() for weight in teacher.parameters()}
    assert {weight.data_ptr() for weight in student.parameters()} < own
    assert len(teacher.model.layers) == 3
    assert teacher.config.num_hidden_layers == 3
    assert student.config.num_hidden_layers == len(student.model.layers) == 2
