"""Rules on how a model answers: whether it ends, rests on passages, abstains, forgets."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from tasks.promotion.evidence import ModelEvidence
from tasks.promotion.params import (
    AbstentionParams,
    BrokenParams,
    CutParams,
    ForgettingParams,
    GroundednessParams,
    InstructionsParams,
    RecallParams,
    ShadowRuleParams,
)
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.promotion.rules.data_quality import is_number
from tasks.records.predictions import DISTRACTOR
from tasks.statistics.bootstrap import Interval, wilson

_NO_DOCUMENTS = "the data set has no documents: closed_book decides, and nothing is retrieved"


def stops(evidence: ModelEvidence, params: CutParams) -> Iterator[RuleResult]:
    """Check that the model ends its answers by itself: one that never stops costs most."""
    finding = _share_of_answers(
        evidence, "is_cut", params.max_cut, "were cut at prompting.max_new_tokens"
    )
    more = ": it does not stop, or the data's answers are longer and the bound should be raised"
    over = not finding.holds and finding.value is not None
    yield replace(finding, text=finding.text + more) if over else finding


def readable(evidence: ModelEvidence, params: BrokenParams) -> Iterator[RuleResult]:
    """Check that what the model says is text: few answers hold bytes that are no character."""
    yield _share_of_answers(
        evidence, "is_broken", params.max_broken, "hold bytes that are no UTF-8"
    )


def _share_of_answers(
    evidence: ModelEvidence, mark: Literal["is_cut", "is_broken"], bound: float, what: str
) -> RuleResult:
    """Return whether few enough answers bear a mark; `what` says in words what it means."""
    answers = evidence.primary(evidence.system)
    if answers is None:
        text = (
            f"{evidence.system} has no answers in mode {evidence.mode}, so nothing tells if any "
            f"{what}"
        )
        return RuleResult(False, text, None, bound)
    marked = float(getattr(answers, mark).sum())
    # Of a conversation it is the share of its turns, which makes no more than one of it.
    interval = wilson(round(marked), len(answers.asked), confidence=evidence.params.confidence)
    share = marked / len(answers.asked)
    text = (
        f"{share:.0%} of {evidence.system}'s answers in mode {evidence.mode} {what}; at most "
        f"{bound:.0%} is asked for"
    )
    return RuleResult(share <= bound, text, share, bound, interval)


def retrieval_recall(evidence: ModelEvidence, params: RecallParams) -> Iterator[RuleResult]:
    """Check that retrieval finds a document that holds the answer among its first passages.

    Records whose documents are all gone from the index can be neither found nor missed: too many
    of them leave the recall of the others without meaning.
    """
    yield from _gone_documents(evidence, params)
    if not evidence.has_documents:
        yield nothing_to_ask(_NO_DOCUMENTS)
        return
    name, bound = f"recall_at_{params.depth}", params.min_recall
    value, records = evidence.found("retrieval", name), evidence.found("retrieval", "records")
    reason = evidence.found("retrieval", f"{name}_reason")
    if value is None and reason:
        yield nothing_to_ask(f"retrieval was not measured: {reason}")
        return
    if not is_number(value) or not is_number(records) or records < 1:
        yield RuleResult(False, f"evaluation's metrics hold no retrieval.{name}", None, bound)
        return
    interval = wilson(round(value * records), records, confidence=evidence.params.confidence)
    text = (
        f"for {value:.1%} of {records} questions one of the first {params.depth} passages is of a "
        f"document that holds the answer ({_shown(interval)}); at least {bound:.1%} is asked for"
    )
    yield RuleResult(value >= bound, text, value, bound, interval)


def _gone_documents(evidence: ModelEvidence, params: RecallParams) -> Iterator[RuleResult]:
    """Return a finding where records name documents that the index does not hold."""
    gone, there = (
        evidence.found("retrieval", name) for name in ("records_without_gold_document", "records")
    )
    if not is_number(gone) or not is_number(there):
        if evidence.has_documents:
            text = "evaluation's metrics do not tell how many records name documents that are gone"
            yield RuleResult(False, text, None, params.max_gone)
    elif gone:
        share = gone / (gone + there)
        text = (
            f"of {gone + there} records that name the documents with their answer, {share:.1%} "
            f"name only ones that are gone from the index; at most {params.max_gone:.1%} may"
        )
        interval = wilson(gone, gone + there, confidence=evidence.params.confidence)
        yield RuleResult(share <= params.max_gone, text, share, params.max_gone, interval)


def groundedness(evidence: ModelEvidence, params: GroundednessParams) -> Iterator[RuleResult]:
    """Check that what the model says stands in the passages that it was shown."""
    bound = params.min_groundedness
    if evidence.mode == "closed_book":
        yield nothing_to_ask(
            "closed_book decides: no passages are shown that answers could rest on"
        )
        return
    answers = evidence.primary(evidence.system)
    if answers is None or not answers.is_grounded.any():
        text = (
            f"no answer of {evidence.system} in mode {evidence.mode} claims anything that could be "
            "held against its passages"
        )
        yield RuleResult(False, text, None, bound)
        return
    claims = answers.is_grounded.astype(float)
    values = answers.groundedness.copy()
    values[~answers.is_grounded] = 0.0
    interval = evidence.ratio(values, claims)
    text = (
        f"{interval.value:.1%} of what {evidence.system} says in {int(claims.sum())} answers "
        f"stands in the passages shown ({_shown(interval)}); at least {bound:.1%} is asked for"
    )
    yield RuleResult(interval.value >= bound, text, interval.value, bound, interval)


def abstention(evidence: ModelEvidence, params: AbstentionParams) -> Iterator[RuleResult]:
    """Check that the model says "I don't know" where that is right, and only there."""
    least, most = params.min_unanswerable, params.max_answerable
    asked = (
        (evidence.mode, "unanswerable", least, "questions that have no answer"),
        (DISTRACTOR, "unanswerable", params.min_distractor, "questions beside wrong passages"),
        (evidence.mode, "answerable", most, "questions that have an answer"),
    )
    for mode, kind, bound, questions in asked:
        found = evidence.found("abstention_shares", evidence.system, mode, kind)
        if found is None:
            yield nothing_to_ask(f"in mode {mode} there were no {questions}")
            continue
        interval = Interval(found["value"], found["low"], found["high"])
        if not is_number(interval.value):
            yield RuleResult(
                False, f"abstention_shares of {evidence.system} are not finite", None, bound
            )
            continue
        wanted = kind == "unanswerable"
        text = (
            f"{evidence.system} abstains from {interval.value:.0%} of {found['records']} "
            f"{questions} ({_shown(interval)}, mode {mode}); {'at least' if wanted else 'at most'} "
            f"{bound:.0%} is asked for"
        )
        holds = interval.value >= bound if wanted else interval.value <= bound
        yield RuleResult(holds, text, interval.value, bound, interval)


def shadow(evidence: ModelEvidence, params: ShadowRuleParams) -> Iterator[RuleResult]:
    """Check what a model answers to served questions beside the champion."""
    found, bound = evidence.shadow, params.max_differing
    own = None if found is None else found.models.get(evidence.model)
    if found is None or own is None:
        yield nothing_to_ask("no question was served lately, or no other version is champion")
        return
    if found.bundle_sha256 != evidence.bundle_sha256:
        text = "the served questions were asked of another bundle than the one that is judged"
        yield RuleResult(False, text, None, bound, mild=True)
        return
    share = own.differing_share
    text = (
        f"{evidence.model} answers {own.differing} of {own.questions} served questions otherwise "
        f"than {own.champion}; at most {bound:.0%} is asked for"
    )
    yield RuleResult(share <= bound, text, share, bound)
    if evidence.task.why_unasked("abstention"):  # nor is there a claim to support
        return
    mine, theirs = own.candidate_side, own.champion_side
    more, bound = (mine.abstained - theirs.abstained) / own.questions, params.max_more_abstaining
    text = (
        f"{evidence.model} abstains from {mine.abstained} of {own.questions} served questions, "
        f"{own.champion} from {theirs.abstained}; at most {bound:.0%} more is asked for"
    )
    yield RuleResult(more <= bound, text, more, bound)
    if mine.groundedness is not None and theirs.groundedness is not None:
        loss, bound = theirs.groundedness - mine.groundedness, params.max_groundedness_loss
        text = (
            f"groundedness on served questions is {mine.groundedness:.2f}, {own.champion}'s "
            f"{theirs.groundedness:.2f}; a loss of at most {bound:.2f} is asked for"
        )
        yield RuleResult(loss <= bound, text, loss, bound)


def forgetting(evidence: ModelEvidence, params: ForgettingParams) -> Iterator[RuleResult]:
    """Check that general text did not become much harder to predict."""
    bound = params.max_perplexity_ratio
    ratio = evidence.found("forgetting", "perplexity_ratio")
    if not is_number(ratio):
        text = "evaluation's metrics hold no forgetting.perplexity_ratio"
        yield RuleResult(False, text, None, bound)
        return
    text = (
        f"the adapter's perplexity of general text is {ratio:.2f} times the base's; at most "
        f"{bound:.2f} is asked for"
    )
    yield RuleResult(ratio <= bound, text, ratio, bound)


def instructions(evidence: ModelEvidence, params: InstructionsParams) -> Iterator[RuleResult]:
    """Check that plain instructions that the base follows are still followed."""
    bound = params.min_kept
    kept = evidence.found("forgetting", "instructions_kept")
    right = evidence.found("forgetting", "base", "instructions_right")
    if kept is None and evidence.found("forgetting", "instructions_kept_reason"):
        yield nothing_to_ask(evidence.found("forgetting", "instructions_kept_reason"))
        return
    if not is_number(kept) or not is_number(right) or right < 1:
        text = "evaluation's metrics hold no forgetting.instructions_kept"
        yield RuleResult(False, text, None, bound)
        return
    interval = wilson(round(kept * right), right, confidence=evidence.params.confidence)
    text = (
        f"the adapter still follows {kept:.0%} of the {right} plain instructions that the base "
        f"follows ({_shown(interval)}); at least {bound:.0%} is asked for"
    )
    yield RuleResult(kept >= bound, text, kept, bound, interval)


def _shown(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"
