"""An answer's text as its tokens come, ended before the first of the texts that are to stop it."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from tasks.generation.greedy_decoding import Generation
from tasks.generation.streaming import TextStream


class StoppedText:
    """Text that grows with its tokens until a stop text comes, which is not part of it.

    A stop text may begin and end amid tokens, and be of white space: it is looked for in the text
    as it was made. What may still become one is held back. All that is given out together is
    `text`, without white space around it, as `text_of` gives it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._stream = TextStream(tokenizer, begun=True)  # which then keeps white space in front
        self._stops = stops
        self._longest = max(map(len, stops))
        self._made = ""
        self._whole = ""
        self._given = 0
        self.is_stopped = False

    @property
    def text(self) -> str:
        """Return the answer so far."""
        return self._whole.strip()

    def feed(self, token: int) -> str:
        """Return what text is certain with one more token; often none."""
        return "" if self.is_stopped else self._grow(self._stream.feed(token), is_last=False)

    def rest(self) -> str:
        """Return what was held back, at the end."""
        return "" if self.is_stopped else self._grow(self._stream.rest(), is_last=True)

    def _grow(self, new: str, *, is_last: bool) -> str:
        seen = max(0, len(self._whole) - self._longest + 1)
        self._made += new
        self._whole = self._made + self._stream.spaces
        found = [at for stop in self._stops if (at := self._whole.find(stop, seen)) >= 0]
        self.is_stopped = bool(found)
        if found:
            self._whole = self._whole[: min(found)]
        is_whole = is_last or self.is_stopped
        certain = self._whole[: len(self._whole) - (0 if is_whole else self._open_characters())]
        end = len(certain.rstrip())
        begin = max(self._given, len(certain) - len(certain.lstrip()))
        self._given = max(self._given, end)
        return certain[begin:end]

    def _open_characters(self) -> int:
        """Return how many characters at the end may be the beginning of a stop text."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, len(stop))
                if self._whole.endswith(stop[:length])
            ),
            default=0,
        )


def cut_at_stop(
    tokenizer: PreTrainedTokenizerBase, made: Generation, stops: Sequence[str]
) -> Generation:
    """Return what of a whole answer comes before the first of the stop texts."""
    if not stops:
        return made
    text, used = StoppedText(tokenizer, stops), 0
    while used < len(made.token_ids) and not text.is_stopped:
        text.feed(made.token_ids[used])
        used += 1
    text.rest()
    is_cut = made.is_cut and not text.is_stopped
    return replace(made, text=text.text, token_ids=made.token_ids[:used], is_cut=is_cut)
