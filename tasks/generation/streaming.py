"""Text from token ids as they come: what is not whole yet is held back."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

_BROKEN = "\N{REPLACEMENT CHARACTER}"


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """Return the text of an answer, without special tokens and white space around it.

    Bytes that are no UTF-8, such as of a character that was cut, become U+FFFD.
    """
    return _decoded(tokenizer, token_ids).strip()


@dataclass
class TextStream:
    """Text that grows with its tokens; all of it together is what `text_of` gives.

    A token may end amid a character (a Hangul syllable is three bytes), and what follows may
    change how it reads: so text is only given out when it no longer ends in a broken one. Tokens
    are decoded after the last ones that were given out, since spaces depend on what came before.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: list[int] = field(default_factory=list)
    context: int = 0  # where decoding begins
    given: int = 0  # how many tokens were given out
    spaces: str = ""  # white space that is only given out when something follows
    begun: bool = False

    def feed(self, token: int) -> str:
        """Return what text is certain with one more token; often none."""
        self.ids.append(token)
        return self._new(flush=False)

    def rest(self) -> str:
        """Return what was held back, at the end."""
        return self._new(flush=True)

    def _new(self, *, flush: bool) -> str:
        before = _decoded(self.tokenizer, self.ids[self.context : self.given])
        now = _decoded(self.tokenizer, self.ids[self.context :])
        if len(now) <= len(before) or (now.endswith(_BROKEN) and not flush):
            return ""
        self.context, self.given = self.given, len(self.ids)
        text = self.spaces + now[len(before) :]
        if not self.begun:
            text = text.lstrip()
        shown = text.rstrip()
        self.spaces = text[len(shown) :]
        self.begun = self.begun or bool(shown)
        return shown


def _decoded(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True))
