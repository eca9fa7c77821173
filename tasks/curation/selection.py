"""Which records stay, in which split, and why the others go."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tasks.curation.params import CurationParams

from tasks.records.hashing import hash_share, text_sha256
from tasks.records.record import Document, Record

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True, slots=True)
class Removal:
    """Why a record goes: the rule, the id of the row that stays instead, how alike they are."""

    rule: str
    kept: str | None
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a record: a split, or a removal."""

    record: Record
    split: str | None
    removal: Removal | None


def split_of(group: str, params: CurationParams) -> str:
    """The split that a group's hash gives; it depends on nothing else."""
    share = hash_share(group, params.salt)
    if share < params.test_share:
        return TEST
    return VALIDATION if share < params.test_share + params.validation_share else TRAIN


def select(records: Sequence[Record], params: CurationParams) -> list[Fate]:
    """The fate of every record, sorted by id.

    Of duplicates the one that came first stays (by intake, then by id).
    """
    ordered = sorted(records, key=lambda record: (record.intake, record.id))
    sketches = dict(zip((record.id for record in ordered), _sketches(ordered, params), strict=True))
    removed: dict[str, Removal] = {}
    for record, removal in _out_of_bounds(ordered, params):
        removed[record.id] = removal
    for record, removal in _duplicates(_left(ordered, removed), sketches, params):
        removed[record.id] = removal
    splits = {record.id: split_of(record.group, params) for record in ordered}
    for held_out in (TEST, VALIDATION):
        left = list(_left(ordered, removed))
        for record, removal in _leaks(left, splits, held_out, sketches, params):
            removed[record.id] = removal
    fates = [
        Fate(record, None if record.id in removed else splits[record.id], removed.get(record.id))
        for record in ordered
    ]
    return sorted(fates, key=lambda fate: fate.record.id)


def select_documents(documents: Sequence[Document], records: Iterable[Record]) -> list[Document]:
    """The documents sorted by id; of equal texts one stays, and all that a record refers to."""
    needed = {name for record in records for name in record.documents}
    seen: set[str] = set()
    kept = []
    for document in sorted(documents, key=lambda item: (item.id not in needed, item.id)):
        digest = text_sha256(document.title, document.text)
        if document.id in needed or digest not in seen:
            kept.append(document)
        seen.add(digest)
    return sorted(kept, key=lambda document: document.id)


def shared_groups(fates: Sequence[Fate]) -> int:
    """How many groups stand in more than one split; anything but zero is a leak."""
    splits: dict[str, set[str]] = {}
    for fate in fates:
        if fate.split is not None:
            splits.setdefault(fate.record.group, set()).add(fate.split)
    return sum(len(found) > 1 for found in splits.values())


def _content(record: Record) -> str:
    return "\n".join(message.content for message in record.messages)


def _sketches(records: Sequence[Record], params: CurationParams) -> list[Sketch]:
    return sketch(
        [_content(record) for record in records],
        characters=params.shingle_characters,
        permutations=params.permutations,
        seed=params.seed,
    )


def _left(records: Sequence[Record], removed: dict[str, Removal]) -> Iterator[Record]:
    return (record for record in records if record.id not in removed)


def _out_of_bounds(
    records: Sequence[Record], params: CurationParams
) -> Iterator[tuple[Record, Removal]]:
    for record in records:
        for name, text, (least, most) in (
            ("question", record.question, params.question_characters),
            ("answer", record.answer, params.answer_characters),
        ):
            if not least <= len(text.strip()) <= most:
                side = "short" if len(text.strip()) < least else "long"
                yield record, Removal(f"{name}_too_{side}", None, None)
                break


def _duplicates(
    records: Iterable[Record], sketches: dict[str, Sketch], params: CurationParams
) -> Iterator[tuple[Record, Removal]]:
    """The records that repeat an earlier one, exactly or nearly."""
    kept: list[Record] = []
    exact: dict[str, str] = {}
    similar = SimilarTexts(params.duplicate_similarity, params.permutations)
    for record in records:
        digest = text_sha256(*(f"{item.role}\n{item.content}" for item in record.messages))
        if digest in exact:
            yield record, Removal("exact_duplicate", exact[digest], 1.0)
            continue
        found = similar.nearest(sketches[record.id])
        if found is not None:
            yield record, Removal("near_duplicate", kept[found[0]].id, round(found[1], 4))
            continue
        exact[digest] = record.id
        similar.add(len(kept), sketches[record.id])
        kept.append(record)


def _leaks(
    records: Sequence[Record],
    splits: dict[str, str],
    held_out: str,
    sketches: dict[str, Sketch],
    params: CurationParams,
) -> Iterator[tuple[Record, Removal]]:
    """The records of lower splits that nearly repeat a held-out one."""
    similar = SimilarTexts(params.leak_similarity, params.permutations)
    for key, record in enumerate(records):
        if splits[record.id] == held_out:
            similar.add(key, sketches[record.id])
    for record in records:
        if SPLITS.index(splits[record.id]) >= SPLITS.index(held_out):
            continue
        found = similar.nearest(sketches[record.id])
        if found is not None:
            yield record, Removal(f"like_{held_out}", records[found[0]].id, round(found[1], 4))
