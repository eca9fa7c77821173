"""How likely a system finds the reference answers, closed book: its perplexity on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.evaluation.answers import ReadTemplate
from tasks.lm.closed_book import reference_likelihoods
from tasks.lm.likelihood import perplexity
from tasks.lm.models import LanguageModel
from tasks.records.likelihoods import Likelihood
from tasks.records.record import Record


@dataclass
class LikelihoodTest:
    """Takes the likelihood of the same records' answers from one system after another.

    Closed book, because then the prompt's beginning is shared by all records and computed once a
    pack. `rows` gathers what was found.
    """

    records: Sequence[Record]
    max_tokens: int
    rows: list[Likelihood] = field(default_factory=list)

    def measure(self, template: ReadTemplate, system: str, model: LanguageModel) -> None:
        """Take them from a model in memory, asked with a template."""
        asked = template(model.tokenizer)
        self.rows += reference_likelihoods(
            system, model, asked, self.records, max_tokens=self.max_tokens
        )


def perplexities(rows: Sequence[Likelihood]) -> dict[str, Mapping[str, float | int]]:
    """By system: the perplexity of a reference's token, and over how much it was taken."""
    systems = dict.fromkeys(row.system for row in rows)
    found: dict[str, Mapping[str, float | int]] = {}
    for system in systems:
        own = [row for row in rows if row.system == system]
        tokens = sum(row.tokens for row in own)
        value = perplexity(sum(row.log_likelihood for row in own), tokens)
        found[system] = {"perplexity": value, "records": len(own), "tokens": tokens}
    return found
