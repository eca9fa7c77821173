"""The answering core: a question in, passages found, one prompt, an answer out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tasks.embedding.embedder import Embedder
from tasks.generation.greedy_decoding import generate
from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import encode_beginning
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import Message
from tasks.records.text import text_sha256
from tasks.retrieval.filters import Where
from tasks.retrieval.index import Index, ScoredPassage
from tasks.stage.params import AnsweringParams
from tasks.task_types.table import Query


@dataclass(frozen=True)
class Answer:
    """An answer, the passages its prompt held (best first), and what identifies both."""

    text: str
    token_ids: tuple[int, ...]
    passages: tuple[ScoredPassage, ...]
    prompt_sha256: str
    latency_ms: float


@dataclass(frozen=True)
class Prepared:
    """A conversation's prompt, and the passages in it, best first."""

    passages: tuple[ScoredPassage, ...]
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Answerer:
    """A model, an index with its embedder, and the way they are prompted.

    `query` returns what passages are searched by for a conversation. Where there are `labels`, the
    model says nothing else. `calls_tools` says that it was trained to call tools, which its
    conversations show as texts.
    """

    language_model: LanguageModel
    template: PromptTemplate
    prompting: AnsweringParams
    index: Index
    load_embedder: Callable[[], Embedder]
    query: Query
    batch_size: int
    labels: LabelTrie | None = None
    calls_tools: bool = False

    @cached_property
    def embedder(self) -> Embedder:
        """Return the index's embedder, loaded when it is first asked for: search may need none."""
        return self.load_embedder()

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        progress: Callable[[int, int], None] | None = None,
        where: Where | None = None,
    ) -> list[Answer]:
        """Return the answer to each conversation, whose last turn is the user's question.

        Where a filter is given, only the passages that it allows are searched.
        """
        prepared = self.prepare(conversations, where)
        generations = generate(
            self.language_model,
            [item.prompt for item in prepared],
            max_new_tokens=self.prompting.max_new_tokens,
            batch_size=self.batch_size,
            progress=progress,
            labels=self.labels,
        )
        return [
            Answer(
                made.text, made.token_ids, item.passages, prompt_sha256(item.prompt),
                made.latency_ms,
            )
            for made, item in zip(generations, prepared, strict=True)
        ]  # fmt: skip

    def prepare(
        self,
        conversations: Sequence[Sequence[Message]],
        where: Where | None = None,
        begins: str = "",
    ) -> list[Prepared]:
        """Return each conversation with the passages found for it, as the prompt to answer, which
        ends with the text that the answer `begins` with.
        """
        found = self.find([self.query(turns) for turns in conversations], where)
        asked = [
            Prompt(tuple(turns), tuple(item.passage.shown for item in passages))
            for turns, passages in zip(conversations, found, strict=True)
        ]
        tokenizer = self.language_model.tokenizer
        first = encode_beginning(tokenizer, begins) if begins else []
        prompts = [[*ids, *first] for ids in self.template.token_ids(tokenizer, asked)]
        return [Prepared(tuple(used), tuple(ids)) for used, ids in zip(found, prompts, strict=True)]

    def find(
        self, questions: Sequence[str], where: Where | None = None
    ) -> list[list[ScoredPassage]]:
        """Return the passages that the prompt holds of each question's `query`, best first."""
        embedder = self.embedder if self.index.settings.needs_embedder else None
        return self.index.search(questions, self.prompting.passages, embedder, where)


def prompt_sha256(token_ids: Sequence[int]) -> str:
    """Return the hash that identifies a prompt, from its token ids."""
    return text_sha256(" ".join(map(str, token_ids)))
