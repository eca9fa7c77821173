"""Prompts and answers as token ids: ours, `datasets.map` row by row, and one batched call.

The training split's prompts, with their passages, and the base's tokenizer, so that a night must
have run before. `datasets_map` renders and encodes each row, as most tutorials do;
`tokenizers_batch` is `encode_batch_fast` over texts that were rendered before its clock started:
no faster call of tokenizers is known, and what it leaves out is ours to pay.
"""

import argparse
import sys
from pathlib import Path

from datasets import Dataset, disable_caching, disable_progress_bars
from transformers import PreTrainedTokenizerBase

from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.prompting.chat_encoding import encode_answers
from tasks.prompting.passages import cut_passages
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import read_documents, read_records
from tasks.stage.errors import ConfigError
from tasks.stage.params import PromptingParams, read_yaml
from tasks.task_types.table import TrainedTask
from tasks.tokenization.params import TokenizationParams
from tasks.tokenization.training_examples import choose_contexts, make_prompts
from tests.benchmarks._measurement import measure, print_result

CURATED, STORE = Path("data/curated"), Path(".nightloom/models")
BASE, EMBEDDER = Path("data/models/base.json"), Path("data/models/embedder.json")


def read_inputs(count: int) -> tuple[list[Prompt], list[str]]:
    """The first training prompts and their answers."""
    prompting = PromptingParams.model_validate(read_yaml(Path("params/prompting.yaml")))
    params = TokenizationParams.model_validate(read_yaml(Path("params/tokenization.yaml")))
    passages = cut_passages(
        read_documents(CURATED / "documents.jsonl"),
        prompting,
        base=BASE,
        embedder=EMBEDDER,
        model_store=STORE,
    )
    records = read_records(CURATED / "train.jsonl")[:count]
    contexts = choose_contexts(
        records, passages, query=TrainedTask().query, count=prompting.passages, params=params
    )
    return make_prompts(records, contexts), [record.answer for record in records]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    prompts: list[Prompt],
    answers: list[str],
) -> list[list[int]]:
    """Our token ids: each prompt with its answer."""
    asked = template.token_ids(tokenizer, prompts)
    learned = encode_answers(tokenizer, answers)
    return [ids + answer for ids, answer in zip(asked, learned, strict=True)]


def render(
    tokenizer: PreTrainedTokenizerBase, template: PromptTemplate, prompt: Prompt, answer: str
) -> str:
    """A prompt with its answer as one text, by the tokenizer's chat template."""
    (turns,) = template.chats([prompt])
    chat = [{"role": turn.role, "content": "".join(turn.texts)} for turn in turns]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return f"{text}{answer}{tokenizer.eos_token}"


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 prompts, 2 repeats")
    quick = parser.parse_args().quick
    if not BASE.exists() or not CURATED.exists():
        raise ConfigError(f"{BASE} or {CURATED} is missing", "run `nightloom run` first")
    disable_caching()
    disable_progress_bars()
    tokenizer = load_tokenizer(ModelManifest.read(BASE).folder(STORE))
    template = PromptTemplate.load(Path("params/prompts/answer.jinja"))
    prompts, answers = read_inputs(1000 if quick else 1_000_000)
    pairs = list(zip(prompts, answers, strict=True))
    texts = [render(tokenizer, template, prompt, answer) for prompt, answer in pairs]
    rows = Dataset.from_dict({"place": list(range(len(pairs)))})

    def by_row(row: dict[str, int]) -> dict[str, list[int]]:
        text = render(tokenizer, template, *pairs[row["place"]])
        return {"ids": tokenizer(text, add_special_tokens=False).input_ids}

    def ours() -> list[list[int]]:
        return encode(tokenizer, template, prompts, answers)

    def batched() -> list[list[int]]:
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [item.ids for item in encoded]

    made = ours()
    figures = {
        "prompts": len(prompts),
        "tokens": sum(map(len, made)),
        "same_ids_as_datasets_map": made == list(rows.map(by_row)["ids"]),
        "same_ids_as_tokenizers_batch": made == batched(),
    }
    peers = {"datasets_map": lambda: rows.map(by_row), "tokenizers_batch": batched}
    print_result("tokenization", measure(ours, peers, repeats=2 if quick else 5), figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
