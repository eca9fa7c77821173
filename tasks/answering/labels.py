"""The labels of a bundle's model, for all that loads one: its checks as well as its answers."""

from pathlib import Path

from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import LanguageModel
from tasks.task_types.table import TrainedTask


def read_labels(prompt: Path, language_model: LanguageModel) -> LabelTrie | None:
    """Return the labels that are all that a model may say, None where it says what it likes.

    `prompt` is the folder of the model's prompt.
    """
    spoken = TrainedTask.read(prompt).spoken
    return None if spoken is None else LabelTrie.of(language_model.tokenizer, spoken)
