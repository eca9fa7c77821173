"""Personal data and secrets are found where they are, and nowhere else."""

import pytest

from tasks.privacy.masking import KINDS, find_personal_data, masked
from tests.builders.labelled_text import measure, read_labelled

REGIONS = ("KR", "US")


def test_precision_and_recall_on_labelled_texts() -> None:
    """`pytest -s` prints them."""
    texts = read_labelled()
    quality, mistakes = measure(texts, lambda text: find_personal_data(text, KINDS, REGIONS))

    print(f"\n{len(texts)} texts, {sum(not item.expected for item in texts)} of them with nothing")
    for kind, found in quality.items():
        print(f"{kind:16} precision {found.precision:.3f}, recall {found.recall:.3f} ({found})")
    assert not mistakes
    assert all(found.found >= 5 for found in quality.values())


def test_a_finder_that_finds_nothing_or_everything_scores_badly() -> None:
    none, missed = measure(read_labelled(), lambda _: [])

    assert {found.recall for found in none.values()} == {0.0}
    assert missed
    from tasks.privacy.masking import Found

    everything, _ = measure(
        read_labelled(), lambda text: [Found(kind, 0, len(text)) for kind in KINDS]
    )
    assert all(found.recall == 1 and found.precision < 0.3 for found in everything.values())


def test_a_mask_names_its_kind_and_leaves_the_rest() -> None:
    text, counts = masked("Write to a.b@example.com or call 010-2345-6789.", KINDS, REGIONS)

    assert text == "Write to [EMAIL] or call [PHONE]."
    assert counts == {"email": 1, "phone": 1}


def test_masking_a_masked_text_changes_nothing() -> None:
    for item in read_labelled():
        once, _ = masked(item.text, KINDS, REGIONS)
        assert masked(once, KINDS, REGIONS) == (once, {})


def test_a_kind_that_is_kept_is_not_looked_for() -> None:
    assert masked("a.b@example.com", ("phone",), REGIONS) == ("a.b@example.com", {})


@pytest.mark.parametrize("regions", [("US",), ("KR",)])
def test_a_number_without_a_country_code_needs_its_region(regions: tuple[str, ...]) -> None:
    found = find_personal_data("010-2345-6789, (415) 555-2671", ("phone",), regions)

    assert [(item.start, item.end) for item in found] == [(0, 13) if "KR" in regions else (15, 29)]


def test_a_text_made_to_be_slow_is_not() -> None:
    import time

    hard = ["1-" * 20_000, "a@" * 20_000, "AB12" * 10_000, "password:" * 5_000, "eyJ" * 10_000,
            "-----BEGIN PRIVATE KEY-----" * 2_000, "://a:" * 8_000, "sk-a-" * 8_000]  # fmt: skip
    started = time.process_time()
    for text in hard:
        masked(text, KINDS, REGIONS)

    assert time.process_time() - started < 20
