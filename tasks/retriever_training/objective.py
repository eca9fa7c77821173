"""The loss by which an embedder learns to find one passage among others."""

from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def info_nce(
    questions: Tensor, passages: Tensor, negatives: Tensor, *, temperature: float
) -> Tensor:
    """Return the negative log-probability of each question's own passage, summed, in nats.

    `questions` is (pairs, dimension), `passages` (passages, dimension), of which those at the first
    places are the questions' own; of any length. `negatives`, (pairs, passages), says which
    passages a question is told from: those that hold what it asks are left out of the softmax over
    cosine / temperature.

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4; with the passages of a batch and
    BM25's as negatives as in Karpukhin et al. 2020, arXiv:2004.04906, section 3.2.
    """
    cosines = normalize(questions.float(), dim=-1) @ normalize(passages.float(), dim=-1).T
    pairs = len(questions)
    kept = negatives.clone()
    kept[:, :pairs].fill_diagonal_(True)
    logits = (cosines / temperature).masked_fill(~kept, float("-inf"))
    targets = logits.new_tensor(range(pairs)).long()
    return cross_entropy(logits, targets, reduction="sum")
