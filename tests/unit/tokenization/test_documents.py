"""Documents become pieces in which every token is learned once, framed as in pretraining."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.records.schema import Document, read_documents, read_records
from tasks.sequences.examples import (
    DOCUMENTS_FILE,
    HELD_OUT_DOCUMENTS_FILE,
    Example,
    read_examples,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files
from tasks.stage.params import PromptingParams, read_yaml
from tasks.tokenization.documents import (
    cut_pieces,
    document_frame,
    encode_documents,
)
from tasks.tokenization.params import TokenizationParams
from tests.builders.families import FAMILIES
from tests.builders.korean import document as korean_document
from tests.builders.korean import write_korean
from tests.unit.conftest import Tiny, document, write_curated
from tests.unit.tokenization.test_tokenization import tokenize

SETTINGS = TokenizationParams.model_validate(
    read_yaml(Path("params/tokenization.yaml")) | {"max_tokens": 16, "held_out_documents": 0.3}
)


@pytest.fixture(scope="module")
def tokenizer(tiny: Tiny) -> Any:
    return load_tokenizer(ModelManifest.read(tiny.base).folder(tiny.store))


def documents_of(pieces: list[Example]) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for piece in pieces:
        found.setdefault(piece.id.rpartition("#")[0], []).append(piece)
    return found


def learned_ids(pieces: list[Example]) -> list[int]:
    return [token for piece in pieces for token in piece.token_ids[piece.prompt_length :]]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 40])
def test_pieces_learn_every_token_but_the_first_once(count: int) -> None:
    pieces = list(cut_pieces(range(count), 1, 4))
    assert [token for ids, begin in pieces for token in ids[begin:]] == list(range(1, count))
    assert all(begin < len(ids) <= 4 for ids, begin in pieces)
    assert all(one[-1] == other[0] for (one, _), (other, _) in pairwise(pieces))


@pytest.mark.parametrize("make", [document, korean_document])
def test_no_token_of_a_document_is_lost_and_none_stands_in_a_template(
    make: Callable[[int], Document], tokenizer: Any
) -> None:
    documents = [make(number) for number in range(20)]
    found = encode_documents(documents, [], tokenizer, SETTINGS)
    assert found == encode_documents(documents, [], tokenizer, SETTINGS)
    pieces = [*found.learned, *found.held_out]
    by_document = documents_of(pieces)
    assert by_document.keys() == {item.id for item in documents}
    assert max(len(piece.token_ids) for piece in pieces) == SETTINGS.max_tokens
    for item in documents:
        ids = learned_ids(by_document[item.id])
        assert ids[-1:] == list(found.frame.end)
        text = tokenizer.decode(ids[:-1])
        assert text == (f"{item.title}\n\n{item.text}" if item.title else item.text)
    assert not documents_of(found.learned).keys() & documents_of(found.held_out).keys()


def test_a_document_that_answers_a_test_record_is_never_held_out(
    tiny: Tiny, tokenizer: Any
) -> None:
    documents = read_documents(tiny.curated / "documents.jsonl")
    test = read_records(tiny.curated / "test.jsonl")
    most = SETTINGS.model_copy(update={"held_out_documents": 0.999})
    found = encode_documents(documents, test, tokenizer, most)
    gold = {name for record in test for name in record.documents}
    assert gold
    assert documents_of(found.learned).keys() == gold
    assert documents_of(found.held_out).keys() == {item.id for item in documents} - gold


def test_more_documents_move_none_to_the_other_side(tokenizer: Any) -> None:
    few = encode_documents([document(at) for at in range(20)], [], tokenizer, SETTINGS)
    many = encode_documents([document(at) for at in range(40)], [], tokenizer, SETTINGS)
    assert documents_of(few.held_out).keys() <= documents_of(many.held_out).keys()
    assert documents_of(few.learned).keys() <= documents_of(many.learned).keys()


def test_what_people_corrected_is_no_raw_document(tokenizer: Any) -> None:
    documents = [document(number) for number in range(20)]
    corrected = replace(document(30), is_correction=True)
    found = encode_documents([*documents, corrected], [], tokenizer, SETTINGS)
    assert found == encode_documents(documents, [], tokenizer, SETTINGS)


@pytest.mark.parametrize(
    ("name", "adds", "begin", "end"),
    [
        ("llama3", True, "<|begin_of_text|>", "<|end_of_text|>"),
        ("qwen2", False, "<|endoftext|>", "<|endoftext|>"),
        ("gemma2", True, "<bos>", "<eos>"),
        ("mistral", True, "<s>", "</s>"),
    ],
)
def test_a_document_stands_between_the_tokens_of_its_family_s_pretraining(
    name: str, adds: bool, begin: str, end: str, tmp_path: Path
) -> None:
    made: Any = AutoTokenizer.from_pretrained(FAMILIES[name].write(tmp_path))
    if adds:  # as the families' own files do
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, made.convert_tokens_to_ids(begin))]
        )
    frame = document_frame(made)
    assert made.convert_ids_to_tokens([*frame.begin, *frame.end]) == [begin, end]


def test_the_stage_writes_documents_where_params_say_so_alone(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    without = tokenize(tmp_path / "without", tiny, prompting, tiny.curated)
    also = tokenize(
        tmp_path / "also", tiny, prompting, tiny.curated, documents=True, held_out_documents=0.9
    )
    files = {DOCUMENTS_FILE, HELD_OUT_DOCUMENTS_FILE}
    names = {str(path) for path in folder_files(without.tokens)}
    assert {str(path) for path in folder_files(also.tokens)} - names == files
    assert "documents" not in read_metrics(without.tokenization_report)
    told = read_metrics(also.tokenization_report)["documents"]
    learned = read_examples(also.tokens / DOCUMENTS_FILE)
    assert told["learned"]["tokens"] == len(learned_ids(learned))
    assert told["learned"]["documents"] + told["held_out"]["documents"] == 12
    assert "Documents: " in (also.tokenization_report / "report.md").read_text()


def test_korean_documents_go_through_the_stage(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    curated = write_korean(tmp_path / "korean", documents=40, questions=4)
    paths = tokenize(
        tmp_path, tiny, prompting, curated, documents=True, held_out_documents=0.2, max_tokens=2048
    )
    held_out = documents_of(read_examples(paths.tokens / HELD_OUT_DOCUMENTS_FILE))
    learned = documents_of(read_examples(paths.tokens / DOCUMENTS_FILE))
    assert len(held_out) + len(learned) == 40
    assert min(len(held_out), len(learned)) > 0


def test_the_stage_refuses_data_without_documents(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    curated = tmp_path / "curated"
    write_curated(curated, documents=0, records=12)
    with pytest.raises(DataError, match="the data have no documents"):
        tokenize(tmp_path, tiny, prompting, curated, documents=True)


@pytest.mark.parametrize(
    ("count", "share", "said"),
    [
        (0, 0.3, "the data have no documents"),
        (12, 0.0001, "none of 12 documents is held out"),
        (12, 0.9999, "none of 12 documents is left to learn"),
    ],
)
def test_documents_that_can_t_be_learned_and_measured_are_refused(
    count: int, share: float, said: str, tmp_path: Path, tiny: Tiny, tokenizer: Any
) -> None:
    settings = SETTINGS.model_copy(update={"held_out_documents": share})
    with pytest.raises(DataError, match=said):
        encode_documents([document(at) for at in range(count)], [], tokenizer, settings)
