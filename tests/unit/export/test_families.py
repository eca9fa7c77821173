"""Each family's GGUF file is the model itself in llama.cpp: its tokens, logits, answers, ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from tasks.export.formats import Format
from tasks.export.gguf_writing import Description, round_to_form, write_gguf
from tasks.export.llama_cpp import LlamaCpp
from tasks.export.verification import read_back_gguf
from tasks.generation.greedy_decoding import generate, stop_tokens
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import Turn, encode_chats, end_of_turn
from tests.builders.exported_families import EXPORTED

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("name", EXPORTED)
QUANTISED = [form for form in Format if form.startswith("gguf") and form is not Format.gguf_f32]
QUESTIONS = (
    "What does it do?",
    'What does `json.dumps(x, indent=4)` return?\n[1] "json.dumps" (a) 123',
    "Why is 하늘 blue?\n\n  Really",
    "한국어 질문과 대답: 공기는 무엇인가요?",
    "def read(path):\n    return path.read_text()\n\n\nprint(1234567890)",
    "I'm sure you'll say it's 50% & more @ home #7",
    "漢字 и кириллица, ΑΒΓ, עברית, 🙂👍🏽",
    "a  b   c    d",
    "\tTabs\tand 12 345,67 numbers: 2024-01-02",
    "UPPER lower MiXeD camelCase snake_case HTTPResponse",
    "See https://example.org/a?b=c&d=%20e",
    "x" * 60,
    "...!!! ??? --- *** ///",
    "Café naïve façade",
    "One\n\nTwo\n\n\nThree",
    "[ok] {x} <y> |z| ~ ` ^ \\",
    "Answer in few words. If you cannot know, say: I don't know.",
)
CHATS = (
    *((Turn("user", (text,)),) for text in QUESTIONS),
    (Turn("system", ("Answer in few words.",)), Turn("user", (QUESTIONS[1],))),
    tuple(Turn(role, (text,)) for role, text in
          (("user", QUESTIONS[0]), ("assistant", "It's 12 하늘."), ("user", QUESTIONS[2]))),
    tuple(Turn(role, (text,)) for role, text in
          (("system", "Be brief."), ("user", QUESTIONS[5]), ("assistant", "7%"),
           ("user", QUESTIONS[4]), ("assistant", "- c\n- d"), ("user", QUESTIONS[3]))),
)  # fmt: skip
# The largest difference of any token's score in float32 files, in shares of the logits' spread.
# llama.cpp's GELU is a table in float16.
MOST, MOST_OF_GELU = 1e-4, 5e-3


@dataclass(frozen=True)
class Held:
    """A family's model, its float32 file, and the twenty prompts."""

    model: LanguageModel
    file: Path
    prompts: list[list[int]]
    llama_cpp: LlamaCpp


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Held]:
    made: dict[str, Held] = {}

    def hold(name: str) -> Held:
        if name not in made:
            place = tmp_path_factory.mktemp("family")
            model = EXPORTED[name].write(place / "model")
            write(place / "f32.gguf", model, Format.gguf_f32)
            prompts = encode_chats(model.tokenizer, CHATS)
            made[name] = Held(model, place / "f32.gguf", prompts, opened(place / "f32.gguf"))
        return made[name]

    return hold


def write(path: Path, model: LanguageModel, form: Format, name: str = "m-1") -> None:
    write_gguf(path, model, form, Description(name, "MIT", "made"))


def opened(path: Path) -> LlamaCpp:
    return LlamaCpp(path, context=256, rows=1, threads=1, exact=True)


def messages(chat: tuple[Turn, ...]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": "".join(turn.texts)} for turn in chat]


def scores(model: LanguageModel, prompt: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[
            0, -1
        ]
    return found


def test_there_are_twenty_prompts() -> None:
    assert len({*CHATS}) == 20


@EVERY
def test_llama_cpp_makes_the_same_tokens_of_twenty_chats(
    name: str, held: Callable[[str], Held]
) -> None:
    one = held(name)
    own = [
        one.model.tokenizer.apply_chat_template(
            messages(chat), tokenize=False, add_generation_prompt=True
        )
        for chat in CHATS
    ]
    rendered = [one.llama_cpp.rendered(messages(chat)) for chat in CHATS]
    bos = one.model.tokenizer.bos_token or ""
    assert [bos + text.removeprefix(bos) for text in rendered] == [
        bos + text.removeprefix(bos) for text in own
    ]
    assert [one.llama_cpp.tokens(text) for text in rendered] == one.prompts


@EVERY
def test_llama_cpp_computes_the_same_logits(name: str, held: Callable[[str], Held]) -> None:
    one, worst = held(name), 0.0
    for prompt in one.prompts:
        known = scores(one.model, prompt)
        told = one.llama_cpp.log_probabilities(prompt, len(known))
        assert len(told) == len(known)
        apart = known.log_softmax(-1)[list(told)] - torch.tensor(list(told.values()))
        worst = max(worst, float(apart.abs().max() / known.std()))
    print(f"{name}: {worst:.1e} of the logits' spread")
    assert worst < (MOST_OF_GELU if name.startswith("Gemma") else MOST)


@EVERY
def test_llama_cpp_gives_the_same_answers(name: str, held: Callable[[str], Held]) -> None:
    one = held(name)
    made = generate(one.model, one.prompts, max_new_tokens=8, batch_size=4)
    found = [one.llama_cpp.answer(prompt, 8)[1] for prompt in one.prompts]
    assert [tuple(ids) for ids in found] == [item.token_ids for item in made]


@EVERY
def test_an_answer_ends_in_llama_cpp_where_it_ends_here(
    name: str, held: Callable[[str], Held]
) -> None:
    one = held(name)
    stops = stop_tokens(one.model)
    assert {end_of_turn(one.model.tokenizer), one.model.tokenizer.eos_token_id} <= stops
    assert all(one.llama_cpp.ends_at(token) for token in stops)
    [plain] = one.model.tokenizer("e", add_special_tokens=False).input_ids[-1:]
    assert not one.llama_cpp.ends_at(plain)


@EVERY
def test_a_file_names_its_family_and_its_way_of_cutting_text(
    name: str, held: Callable[[str], Held]
) -> None:
    fields = GGUFReader(held(name).file).fields
    exported, tokenizer = EXPORTED[name], held(name).model.tokenizer
    assert fields["general.architecture"].contents() == exported.architecture
    assert fields["tokenizer.ggml.pre"].contents() == exported.cut
    kind = "llama" if exported.cut == "default" else "gpt2"
    assert fields["tokenizer.ggml.model"].contents() == kind
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.eot_token_id"].contents() == end_of_turn(tokenizer)
    assert str(fields["tokenizer.chat_template"].contents()).endswith(tokenizer.chat_template)


@pytest.mark.parametrize("form", QUANTISED)
@EVERY
def test_every_form_is_written_and_read_back(
    name: str, form: Format, held: Callable[[str], Held], tmp_path: Path
) -> None:
    model = EXPORTED[name].write(tmp_path / "model")
    write(tmp_path / "m.gguf", model, form)
    prompts = held(name).prompts
    found = read_back_gguf(tmp_path / "m.gguf", model, form, prompts, CHATS)
    print(f"{name} {form}: {found}")
    assert found.to_form < {Format.gguf_f16: 5e-3}.get(form, 0.1)
    assert found.agreeing >= {Format.gguf_f16: 0.95, Format.gguf_q8_0: 0.8}.get(form, 0)


def test_rounding_is_what_a_form_alone_moves(held: Callable[[str], Held], tmp_path: Path) -> None:
    model: Any = EXPORTED["Gemma 2"].write(tmp_path / "model")
    before = {name: weight.clone() for name, weight in model.model.named_parameters()}
    round_to_form(model.model, Format.gguf_q8_0)
    moved = {name for name, weight in model.model.named_parameters()
             if not torch.equal(weight, before[name])}  # fmt: skip
    assert moved == {name for name in before if "norm" not in name}
