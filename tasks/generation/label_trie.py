"""The only answers that there are, as a trie over token ids: what may be said next, and the rest.

Where rows may say nothing but labels, each takes the likeliest of the tokens that go on with one.
Probabilities are among these tokens, so over all labels they add up to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import encode_answers
from tasks.stage.errors import ConfigError


@dataclass
class _Node:
    """What may follow, by token id; nothing follows what ends an answer."""

    following: dict[int, "_Node"] = field(default_factory=dict)


class LabelTrie:
    """Labels by their token ids, each with what ends an answer."""

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        self._root = _Node()
        for ids in labels:
            node = self._root
            for token in ids:
                node = node.following.setdefault(token, _Node())

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> "LabelTrie":
        """Return the trie of labels as a tokenizer spells them after a prompt."""
        return cls(encode_answers(tokenizer, labels))

    def allowed(self, tokens: Sequence[int]) -> list[int]:
        """Return the token ids that may follow an answer's first tokens, in order.

        None follow what is no beginning of a label.
        """
        node = self._at(tokens)
        return [] if node is None else sorted(node.following)

    def rest(self, tokens: Sequence[int]) -> list[int] | None:
        """Return what must follow, the end included, where one label alone begins so; else None."""
        node, found = self._at(tokens), []
        if node is None:
            return None
        while len(node.following) == 1:
            [(token, node)] = node.following.items()
            found.append(token)
        return None if node.following else found

    def _at(self, tokens: Sequence[int]) -> _Node | None:
        node: _Node | None = self._root
        for token in tokens:
            node = None if node is None else node.following.get(token)
        return node


@torch.inference_mode()
def likeliest_labelled(
    logits: Tensor, said: Sequence[Sequence[int]], labels: LabelTrie
) -> list[tuple[int, float]]:
    """Return the likeliest next token of each row and its log-probability among those allowed.

    `logits` are (rows, vocabulary), `said` the tokens that each row has said. The settings by which
    a model's own generation changes scores don't count here.

    Raises:
        ConfigError: a score is not finite.
    """
    if not said:
        return []
    allowed = [labels.allowed(tokens) for tokens in said]
    widest = max(map(len, allowed))
    padded = [ids + ids[:1] * (widest - len(ids)) for ids in allowed]
    places = torch.tensor(padded, device=logits.device)
    lengths = torch.tensor([[len(ids)] for ids in allowed], device=logits.device)
    scores = logits.float().gather(1, places)
    is_padding = torch.arange(widest, device=logits.device)[None] >= lengths
    likely = scores.masked_fill(is_padding, float("-inf")).log_softmax(-1)
    best, columns = likely.max(-1)
    if not bool(best.isfinite().all()):
        raise ConfigError(
            "the model gives scores of labels that are not finite; expected numbers, since the "
            "likeliest of none can be told",
            "look for weights that are not finite, or compute in a wider dtype",
        )
    return [
        (ids[column], value)
        for ids, column, value in zip(allowed, columns.tolist(), best.tolist(), strict=True)
    ]
