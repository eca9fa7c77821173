"""Task chat in tokenization: an example a turn, its ids those of the tokenizer's own method."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.lexical.chunking import Passage, cut_documents
from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_template
from tasks.prompting.templates import PromptTemplate
from tasks.records.schema import Document, Message, Record, read_records, write_records
from tasks.sequences.examples import Example, read_examples
from tasks.sequences.packing import build_pack, plan_packs
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import PromptingParams, read_yaml
from tasks.task_types.table import TrainedTask
from tasks.tokenization.conversations import (
    check_shown,
    choose_turn_contexts,
    split_turns,
    turn_counts,
    turns_line,
)
from tasks.tokenization.params import TokenizationParams
from tasks.tokenization.training_examples import Context, encode_records
from tests.builders.conversations import CHAT, said, write_conversations
from tests.builders.families import FAMILIES, Family
from tests.builders.family_templates import QWEN3
from tests.unit.conftest import Tiny
from tests.unit.prompting.conftest import Bind, bound
from tests.unit.tokenization.test_tokenization import tokenize

__all__ = ["bound"]  # a fixture
TASK: dict[str, object] = {"name": "chat"}
SETTINGS = read_yaml(Path("params/tokenization.yaml")) | {"max_tokens": 2048}
TURNS = (
    *said('What does it do?\n[1] "json.dumps" 123', "It's 12 하늘."),
    *said("Why is 하늘 blue?\n\n  Really", "공기 때문에."),
    *said("def f(x):\n    return x", '"quoted", 7%'),
)


def settings(**changes: object) -> TokenizationParams:
    return TokenizationParams.model_validate(SETTINGS | changes)


def record(name: str, turns: tuple[Message, ...], *documents: str, **more: Any) -> Record:
    return Record(name, turns, documents, "s", name, "test", "CC0", "n1", **more)


@pytest.fixture
def curated(tmp_path: Path, tiny: Tiny) -> Path:
    write_conversations(tmp_path / "curated", tiny.curated)
    return tmp_path / "curated"


@pytest.fixture(scope="module")
def roomy(prompting: PromptingParams) -> PromptingParams:
    return prompting.model_copy(update={"max_new_tokens": 64})


def own(tokenizer: Any, turns: Sequence[Message], *, asked: bool) -> list[int]:
    """What the tokenizer's own method makes of a conversation."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=asked, return_dict=False
    )
    return ids


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_each_turn_of_every_family_is_learned_exactly_after_the_turns_before_it(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    template = PromptTemplate.load(Path("params/prompts/chat.jinja"))
    system = Message("system", "Be brief.")
    whole = record("c", (system, *TURNS))
    turns = split_turns(CHAT, {"train": [whole]})["train"]
    contexts = {turn.id: Context("c", ()) for turn in turns}
    found = encode_records(turns, contexts, {}, template, tokenizer, settings())
    assert [example.id for example in found.examples] == ["c#1", "c#2", "c#3"]
    for example, turn in zip(found.examples, turns, strict=True):
        prompt = own(tokenizer, turn.messages[:-1], asked=True)
        assert list(example.token_ids[: example.prompt_length]) == prompt
        learned = example.token_ids[example.prompt_length :]
        assert learned[-1] == tokenizer.convert_tokens_to_ids(family.end)
        assert tokenizer.decode(learned[:-1]).strip() == turn.answer
        assert own(tokenizer, turn.messages, asked=False)[: len(example.token_ids)] == list(
            example.token_ids
        )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_thoughts_that_a_template_takes_from_earlier_turns_are_refused_by_name(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    thinking = said("Why?", "<think>\nIt may be so.\n</think>\n\nBecause.")
    splits = {"train": [record("good", TURNS), record("bad", (*thinking, *TURNS))], "test": []}
    if family.template == QWEN3:
        with pytest.raises(DataError, match=r"1 conversations hold .*: bad \(train\); such parts"):
            check_shown(splits, tokenizer)
    else:
        check_shown(splits, tokenizer)
    spelled = said("Why?", f"{family.end} is text here.")
    check_shown({"train": [record("text", spelled)]}, tokenizer)


def test_a_conversation_goes_through_the_model_once_and_each_of_its_turns_is_a_target(
    bound: Bind,
) -> None:
    tokenizer = bound(FAMILIES["llama3"])
    template = PromptTemplate.load(Path("params/prompts/chat.jinja"))
    long = tuple(turn for _ in range(3) for turn in TURNS)
    turns = split_turns(CHAT, {"train": [record("c", long)]})["train"]
    contexts = choose_turn_contexts(turns, [], CHAT, count=2, params=settings(context_examples=9))
    examples = encode_records(turns, contexts, {}, template, tokenizer, settings()).examples
    [group] = plan_packs(examples, 4096)
    pack = build_pack(group)
    assert pack.tokens < 1.1 * len(examples[-1].token_ids)
    assert sum(pack.supervised) == sum(example.supervised for example in examples)
    targets = pack.targets.tolist()
    for example, count in zip(group, pack.supervised, strict=True):
        answer, targets = targets[:count], targets[count:]
        assert tuple(answer) == example.token_ids[example.prompt_length :]


def by_id(folder: Path, split: str = "train") -> dict[str, Example]:
    return {item.id: item for item in read_examples(folder / f"{split}.parquet")}


def test_turns_become_examples_and_those_of_weight_zero_are_context_alone(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    paths = tokenize(tmp_path, tiny, roomy, curated, TASK, max_tokens=1024)
    found = by_id(paths.tokens)
    records = read_records(curated / "train.jsonl")
    wanted = {
        f"{row.id}#{number}"
        for row in records
        for number in range(1, len(row.messages) // 2 + 1)
        if number not in row.unlearned
    }
    assert found.keys() == wanted
    tokenizer = load_tokenizer(ModelManifest.read(tiny.base).folder(tiny.store))
    last = found[f"{records[0].id}#3"]
    assert "Rest a while, 0." in tokenizer.decode(last.token_ids[: last.prompt_length])
    learned = [tokenizer.decode(one.token_ids[one.prompt_length :]) for one in found.values()]
    assert not any("Rest a while, 0." in text for text in learned)
    assert any("Rest a while, 1." in text for text in learned)
    assert TrainedTask.read(paths.tokens / PROMPT) == CHAT
    metrics = read_metrics(paths.tokenization_report)
    assert metrics["template"] == "chat.jinja"
    assert metrics["turns"]["train"] == {
        "conversations": 12, "turns": 24, "unlearned": 4, "most_turns": 3, "in_train": 0,
    }  # fmt: skip
    text = (paths.tokenization_report / "report.md").read_text()
    assert "24 in 12 conversations of train (at most turn 3 of one, 4 more of weight 0)" in text
    # The tiny splits are all alike.
    assert metrics["turns"]["test"]["in_train"] == 24
    assert "24 of validation and 24 of test are in train word for word" in text


def test_turns_are_known_by_all_that_was_said_before_them() -> None:
    opening = said("Hello", "Hi.")
    train = record("a", (*opening, *said("Who?", "Ann.")))
    test = record("b", (*opening, *said("When?", "Noon.")))
    turns = split_turns(CHAT, {"train": [train], "validation": [], "test": [test]})
    found = turn_counts(turns)
    counts = [row["in_train"] for row in found.values() if isinstance(row, dict)]
    assert counts == [0, 0, 1]
    assert "0 of validation and 1 of test are in train" in turns_line(found)
    other = record("c", (*said("Hello", "Hi!!"), *said("Who?", "Ann.")))
    turns["test"] = split_turns(CHAT, {"test": [other]})["test"]
    assert "word for word" not in turns_line(turn_counts(turns))


def test_the_last_turn_alone_is_learned_where_params_say_so(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    chat = read_yaml(Path("params/task.yaml"))["chat"] | {"learn": "last"}
    last = TASK | {"chat": chat}
    paths = tokenize(tmp_path, tiny, roomy, curated, last, max_tokens=1024)
    numbers = {row.id: len(row.messages) // 2 for row in read_records(curated / "train.jsonl")}
    assert by_id(paths.tokens).keys() == {f"{name}#{last}" for name, last in numbers.items()}


def test_demonstrations_are_first_exchanges_which_need_nothing_before_them(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    paths = tokenize(tmp_path, tiny, roomy, curated, TASK, max_tokens=1024, demonstrations=2)
    found = read_template(paths.tokens / PROMPT).demonstrations
    assert [turn.role for turn in found] == ["user", "assistant"] * 2
    firsts = [row.messages[:2] for row in read_records(curated / "train.jsonl")]
    assert all(found[at : at + 2] in firsts for at in (0, 2))
    shown = read_metrics(paths.tokenization_report)["demonstrations"]
    assert not {name.partition("#")[0] for name in by_id(paths.tokens)} & set(shown)


def test_limits_that_do_not_fit_are_told_at_once_with_values_that_do(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams, curated: Path
) -> None:
    tight = {"max_tokens": 32, "max_long_answer_share": 0.2}
    with pytest.raises(GateError, match=r"turns with the conversation before them") as caught:
        tokenize(tmp_path, tiny, prompting, curated, TASK, **tight)
    assert "replies are longer than prompting.max_new_tokens (4)" in caught.value.message
    told = dict(re.findall(r"--set (\S+)=(\d+)", caught.value.remedy))
    fitting = prompting.model_copy(update={"max_new_tokens": int(told["prompting.max_new_tokens"])})
    enough = tight | {"max_tokens": int(told["tokenization.max_tokens"])}
    assert tokenize(tmp_path / "again", tiny, fitting, curated, TASK, **enough).tokens.exists()


def test_a_conversation_of_five_hundred_turns_is_refused_before_training(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    path = curated / "train.jsonl"
    first, *others = read_records(path)
    write_records(path, [replace(first, messages=said("a", "b") * 500), *others])
    write_manifest(curated)
    with pytest.raises(DataError, match=rf"more than task\.chat\.max_turns.*{first.id} \(train\)"):
        tokenize(tmp_path, tiny, roomy, curated, TASK)


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    names = [f"json.{name}" for name in ("load", "dump", "walk", "open")]
    texts = [Document(n, f"Return what {n} does, then stop.", n, "test", "CC0") for n in names]
    return cut_documents(texts, words=6, overlap_words=1)


def test_a_turn_is_shown_the_passages_of_its_conversation(passages: list[Passage]) -> None:
    asked = (*said("What does json.walk do?", "It walks."), *said("And what then?", "It stops."))
    turns = split_turns(CHAT, {"train": [record("c", asked)]})["train"]
    every = settings(passages_share=1.0)
    found = choose_turn_contexts(turns, passages, CHAT, count=1, params=every)
    for turn in turns:
        assert "json.walk" in found[turn.id].passages[0]
        assert found[turn.id].name == "c"
    gold = split_turns(CHAT, {"train": [record("c", asked, "json.open")]})["train"]
    shown = choose_turn_contexts(gold, passages, CHAT, count=2, params=every)
    assert all(any("json.open" in text for text in one.passages) for one in shown.values())


def test_a_share_of_the_conversations_sees_no_passages_in_any_turn(
    passages: list[Passage],
) -> None:
    asked = (*said("What does json.walk do?", "It walks."), *said("And then?", "It stops."))
    rows = [record(f"c{number}", asked) for number in range(40)]
    turns = split_turns(CHAT, {"train": rows})["train"]
    half = settings(passages_share=0.5)
    found = choose_turn_contexts(turns, passages, CHAT, count=1, params=half)
    for row in rows:
        assert bool(found[f"{row.id}#1"].passages) == bool(found[f"{row.id}#2"].passages)
    assert 0 < sum(bool(one.passages) for one in found.values()) < len(turns)


def test_many_turns_of_one_conversation_are_parted_so_that_packs_stay_small() -> None:
    turns = split_turns(CHAT, {"train": [record("c", said("a", "b") * 7)]})["train"]
    found = choose_turn_contexts(turns, [], CHAT, count=1, params=settings(context_examples=3))
    assert [one.name for one in found.values()] == [
        *["c"] * 3, *["c part 2"] * 3, "c part 3",
    ]  # fmt: skip
