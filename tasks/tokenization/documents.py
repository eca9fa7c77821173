"""Documents as token ids, to be learned as they are: no template, each token of them learned.

A document stands between the tokens that begin and end a text in the model's pretraining, and is
cut into pieces that a training has room for.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import encode_texts
from tasks.records.schema import Document, Record
from tasks.records.text import hash_share
from tasks.sequences.examples import DOCUMENT, Example, count_documents
from tasks.stage.errors import DataError
from tasks.tokenization.params import TokenizationParams

# What ends a text in pretraining, where an instruction-tuned model's `eos_token` ends a turn:
# GPT-2, Qwen, Phi and SmolLM; Llama 3; DeepSeek.
_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")


@dataclass(frozen=True)
class DocumentFrame:
    """The token ids that begin and end a document; neither is empty."""

    begin: tuple[int, ...]
    end: tuple[int, ...]


@dataclass(frozen=True)
class EncodedDocuments:
    """The pieces of the documents to learn and of those held out, and what frames a document."""

    learned: list[Example]
    held_out: list[Example]
    frame: DocumentFrame


def encode_documents(
    documents: Sequence[Document],
    test: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    params: TokenizationParams,
) -> EncodedDocuments:
    """Return the pieces of all documents but corrections, each of at most `max_tokens` tokens.

    A share of the documents is held out, chosen by hashed id. None that holds the answer of a test
    record is: a night is judged by what it learned with such documents, as it is served with them.
    Corrections are questions with their answers, which the splits hold or hold back.

    Raises:
        DataError: there are no documents, none is held out, or all are.
    """
    raw = [document for document in documents if not document.is_correction]
    kept = {name for record in test for name in record.documents}
    held_out = [document for document in raw if _is_held_out(document, kept, params)]
    names = {document.id for document in held_out}
    learned = [document for document in raw if document.id not in names]
    _check(raw, learned, held_out, params)
    frame = document_frame(tokenizer)
    return EncodedDocuments(
        _pieces(learned, tokenizer, frame, params.max_tokens),
        _pieces(held_out, tokenizer, frame, params.max_tokens),
        frame,
    )


def document_frame(tokenizer: PreTrainedTokenizerBase) -> DocumentFrame:
    """Return what stood around a text when the model was pretrained, as its tokenizer tells.

    That is what the tokenizer adds by itself. Where it adds no end, it is the token that parts
    texts; where it adds no beginning, that token too, since one text came after another.
    """
    plain: list[int] = tokenizer("x", add_special_tokens=False).input_ids
    whole: list[int] = tokenizer("x", add_special_tokens=True).input_ids
    start = next(at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)
    begin, end = tuple(whole[:start]), tuple(whole[start + len(plain) :])
    known = tokenizer.get_vocab()
    named = [known[name] for name in _SEPARATORS if name in known]
    parting: int = named[0] if named else tokenizer.eos_token_id  # which no base is without
    return DocumentFrame(begin or (parting,), end or (parting,))


def cut_pieces(
    ids: Sequence[int], context: int, most: int
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield pieces of at most `most` tokens, and from where on each is learned.

    The first `context` tokens are not learned. Each later piece begins with the last token of the
    one before it, which it does not learn; so every other token is learned once.
    """
    start = 0
    while True:
        piece = tuple(ids[start : start + most])
        yield piece, context
        start += len(piece) - 1
        if start + 1 >= len(ids):
            return
        context = 1


def count_tokens(
    encoded: EncodedDocuments, tokenizer: PreTrainedTokenizerBase
) -> dict[str, object]:
    """Return how many documents, pieces and tokens are learned and held out, and what frames
    them.
    """
    parts = {"learned": encoded.learned, "held_out": encoded.held_out}
    return {
        "begin": tokenizer.convert_ids_to_tokens(list(encoded.frame.begin)),
        "end": tokenizer.convert_ids_to_tokens(list(encoded.frame.end)),
        **{
            name: {
                "documents": count_documents(pieces),
                "pieces": len(pieces),
                "tokens": sum(piece.supervised for piece in pieces),
            }
            for name, pieces in parts.items()
        },
    }


def documents_line(found: Mapping[str, Any]) -> str:
    """Return it in sentences."""
    learned, held_out = found["learned"], found["held_out"]
    return (
        f"Documents: {learned['documents']} to learn, {learned['tokens']} tokens in "
        f"{learned['pieces']} pieces; {held_out['documents']} held out, {held_out['tokens']} "
        f"tokens. Each between {' '.join(found['begin'])} and {' '.join(found['end'])}."
    )


def _pieces(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    frame: DocumentFrame,
    most: int,
) -> list[Example]:
    found = encode_texts(tokenizer, [_text(document) for document in documents])
    return [
        _example(f"{document.id}#{number}", *piece)
        for document, ids in zip(documents, found, strict=True)
        for number, piece in enumerate(
            cut_pieces((*frame.begin, *ids, *frame.end), len(frame.begin), most)
        )
    ]


def _example(name: str, ids: tuple[int, ...], learned_from: int) -> Example:
    # A context of its own, so that the pieces of a long document need not go in one step.
    context = f"{DOCUMENT} {name}"
    return Example(name, "", "", DOCUMENT, context, ids, learned_from)


def _text(document: Document) -> str:
    """Return what is learned of a document: its title leads, once."""
    if not document.title or document.text.startswith(document.title):
        return document.text
    return f"{document.title}\n\n{document.text}"


def _is_held_out(document: Document, kept: Collection[str], params: TokenizationParams) -> bool:
    if document.id in kept:
        return False
    return hash_share(document.id, f"documents-{params.seed}") < params.held_out_documents


def _check(
    raw: Sequence[Document],
    learned: Sequence[Document],
    held_out: Sequence[Document],
    params: TokenizationParams,
) -> None:
    if not raw:
        raise DataError(
            "tokenization.documents is true, and the data have no documents",
            "take documents in (docs/guides/data.md), or set tokenization.documents: false and "
            "finetuning.documents_share: 0.0",
        )
    if not learned or not held_out:
        which = "held out" if learned else "left to learn"
        raise DataError(
            f"none of {len(raw)} documents is {which}; tokenization.held_out_documents is "
            f"{params.held_out_documents}",
            f"{'raise' if learned else 'lower'} tokenization.held_out_documents, or take more "
            "documents in",
        )
