"""Answers that can be labels alone: the likeliest path of the trie, in batches as one by one."""

import math
from itertools import pairwise

import pytest
import torch

from tasks.generation.greedy_decoding import generate, stop_tokens
from tasks.generation.label_trie import LabelTrie, likeliest_labelled
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import encode_answers
from tests.unit.conftest import Tiny
from tests.unit.generation.test_batching_check import with_tokenizer
from tests.unit.generation.test_greedy_decoding import Seen, make, mixed
from tests.unit.sequences.test_packing import of_kind

END = 9
# One is the beginning of another, and two begin alike.
IDS = [[1, 2, END], [1, 2, 3, END], [4, 5, 6, END], [4, 5, 7, 8, END]]
LABELS = ("card", "card lost", "card stolen", "refund", "top-up", "환불")


def test_only_what_goes_on_with_a_label_is_allowed() -> None:
    trie = LabelTrie(IDS)
    assert trie.allowed([]) == [1, 4]
    assert trie.allowed([1, 2]) == [3, END]
    assert trie.allowed([4, 5]) == [6, 7]
    assert trie.allowed([2]) == trie.allowed([4, 5, 6, END]) == []


def test_what_can_end_in_one_way_alone_is_known_to_its_end() -> None:
    trie = LabelTrie(IDS)
    assert trie.rest([]) is trie.rest([1]) is trie.rest([1, 2]) is trie.rest([4]) is None
    assert trie.rest([4, 5, 7]) == [8, END]
    assert trie.rest([1, 2, 3]) == [END]
    assert trie.rest([7]) is None


def test_the_likeliest_is_chosen_among_what_is_allowed_with_its_share_of_these() -> None:
    logits = torch.zeros(2, 12)
    logits[:, 11] = 50.0  # no label has it
    logits[0, 4], logits[1, 3] = math.log(3), math.log(4)
    found = likeliest_labelled(logits, [[], [1, 2]], LabelTrie(IDS))
    assert [token for token, _ in found] == [4, 3]
    assert [math.exp(likely) for _, likely in found] == pytest.approx([3 / 4, 4 / 5])


def probabilities(
    language_model: LanguageModel, prompt: list[int], labels: tuple[str, ...]
) -> dict[str, float]:
    """Each label's probability by the definition, step by step over whole forward passes."""
    ids = encode_answers(language_model.tokenizer, labels)
    trie = LabelTrie(ids)
    found = {}
    for label, own in zip(labels, ids, strict=True):
        whole = torch.tensor([[*prompt, *own]])
        with torch.inference_mode():
            logits = language_model.model(input_ids=whole, use_cache=False).logits[0].float()
        value = 1.0
        for place, token in enumerate(own):
            allowed = trie.allowed(own[:place])
            shares = logits[len(prompt) - 1 + place, allowed].softmax(-1)
            value *= float(shares[allowed.index(token)])
        found[label] = value
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_answer_is_a_label_with_its_own_probability(tiny: Tiny, batch_size: int) -> None:
    language_model = make("llama", tiny)
    prompts = mixed(5)
    trie = LabelTrie.of(language_model.tokenizer, LABELS)
    made = generate(language_model, prompts, max_new_tokens=40, batch_size=batch_size, labels=trie)
    for prompt, answer in zip(prompts, made, strict=True):
        shares = probabilities(language_model, prompt, LABELS)
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        assert answer.text in LABELS
        assert answer.probability == pytest.approx(shares[answer.text], rel=1e-3)
        assert not answer.is_cut
    assert len({answer.text for answer in made}) > 1


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("mamba", {}), ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]})],
)
def test_a_model_that_answers_one_by_one_says_labels_alone_too(
    architecture: str, changes: dict[str, object], tiny: Tiny
) -> None:
    language_model = with_tokenizer(of_kind(architecture, **changes), tiny)
    trie = LabelTrie.of(language_model.tokenizer, LABELS)
    prompts = mixed(2)[:4]
    made = generate(language_model, prompts, max_new_tokens=40, batch_size=4, labels=trie)
    for prompt, answer in zip(prompts, made, strict=True):
        assert answer.text in LABELS
        shares = probabilities(language_model, prompt, LABELS)
        assert answer.probability == pytest.approx(shares[answer.text], rel=1e-2)


def test_no_pass_is_spent_on_what_is_certain(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    trie = LabelTrie.of(language_model.tokenizer, ("all of it is long and certain", "no"))
    generate(language_model, [[20, 30]], max_new_tokens=1, batch_size=1)  # the trial is over
    seen = Seen.of(language_model)
    generate(language_model, [[20, 30]], max_new_tokens=40, batch_size=1, labels=trie)
    assert len(seen.passes) == 1


def test_a_label_is_cut_where_fewer_tokens_are_allowed(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    labels = ("abcdefgh long", "abcdefgh other")
    [ids, _] = encode_answers(language_model.tokenizer, labels)
    trie = LabelTrie.of(language_model.tokenizer, labels)
    for most in (1, len(ids) - 1, len(ids) + 5):
        [made] = generate(
            language_model, [[20, 30]], max_new_tokens=most, batch_size=1, labels=trie
        )
        assert len(made.token_ids) <= most
        assert made.is_cut == (made.text not in labels)
    assert not stop_tokens(language_model) & set(made.token_ids)


def test_answers_in_words_are_those_of_before(tiny: Tiny) -> None:
    language_model = make("llama", tiny)
    free = generate(language_model, mixed(1), max_new_tokens=6, batch_size=4)
    assert {answer.probability for answer in free} == {None}
    for one, other in pairwise(
        [free, generate(language_model, mixed(1), max_new_tokens=6, batch_size=2)]
    ):
        assert [answer.token_ids for answer in one] == [answer.token_ids for answer in other]
