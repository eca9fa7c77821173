"""What is secret on the machine of a night stands in nothing that the night leaves or shows."""

import pytest

from tests.builders.byte_search import files_with
from tests.builders.clones import BuiltClone
from tests.builders.planted import planted_secrets, private_secrets

pytestmark = [pytest.mark.night, pytest.mark.timeout(1200)]


def test_no_store_log_page_or_process_line_of_a_night_holds_a_secret(built: BuiltClone) -> None:
    secrets = [*planted_secrets(), *private_secrets(built.checkout)]
    assert len(secrets) > 6
    places = [".nightloom/private", ".git", "tests"]  # where they are from
    left_out = [built.checkout / place for place in places]
    assert files_with(built.checkout, secrets, left_out=left_out) == []
    assert any("tasks.finetuning" in line for line in built.process_lines)
    assert not [line for line in built.process_lines for secret in secrets if secret in line]
