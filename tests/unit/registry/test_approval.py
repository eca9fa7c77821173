"""A person's approval: asked, answered, refused where the answer does not fit, or out of time."""

import contextvars
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.flow_runs import resume_flow_run
from prefect.states import Cancelled, Paused

from flows import approve as approving
from flows import open_approvals as questions
from tasks.orchestration.flow_runs import crash_abandoned
from tasks.orchestration.release import ask_for_approval
from tasks.orchestration.tracking import Tracker
from tasks.registry.approval import ApprovalResponse, expire_old, read_request, settle
from tasks.registry.ledger import Entry, Link
from tasks.registry.lock import PROMOTION_LIMIT, PromotionLock
from tasks.registry.params import ReleaseParams
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml
from tests.builders.prefect_server import prefect_server
from tests.builders.registry import Shop, policies

pytestmark = pytest.mark.slow

APPROVAL = policies("automatic", "approval")
FITTING = {"decision": "approve", "version": 3, "by": "bea", "reason": "read twenty answers"}


def asked(shop: Shop, params: ReleaseParams = APPROVAL) -> Link:
    """The entry that asks about version 3, which the policies brought as far as they could."""
    shop.release("three", params)
    link = shop.ledger.links()[-1]
    assert link.entry.awaits is not None
    return link


def answered(
    shop: Shop, link: Link, decision: str = "approve", params: ReleaseParams = APPROVAL
) -> Entry:
    assert decision in ("approve", "reject", "expire")
    answer = ApprovalResponse(decision, "bea", "read twenty answers")  # type: ignore[arg-type]
    with shop.lock.held():
        question = read_request(shop.ledger, link.sha256)
        return settle(shop.ledger, question, answer, params, shop.downloads)


def test_an_approval_moves_the_version_and_says_who_and_on_what(reigned: Shop) -> None:
    link = asked(reigned)
    entry = answered(reigned, link)
    assert (entry.kind, entry.by, entry.after["production"]) == ("approved", "bea", 3)
    assert entry.evidence["question"] == link.sha256
    assert entry.evidence["metrics"] == "a" * 64
    assert reigned.aliases()["previous"] == 2
    assert reigned.faults() == ()


@pytest.mark.parametrize(("decision", "kind"), [("reject", "rejected"), ("expire", "expired")])
def test_a_no_and_a_silence_move_nothing_and_are_recorded(
    decision: str, kind: str, reigned: Shop
) -> None:
    before = (link := asked(reigned)).entry.after
    entry = answered(reigned, link, decision)
    assert (entry.kind, entry.after, reigned.aliases()) == (kind, before, before)


def test_a_second_answer_is_not_heard(reigned: Shop) -> None:
    link = asked(reigned)
    first = answered(reigned, link, "reject")
    assert answered(reigned, link, "approve") == first
    assert reigned.aliases()["production"] == 2


def test_an_approval_of_what_was_decided_anew_is_recorded_and_moves_nothing(reigned: Shop) -> None:
    link = asked(reigned)
    reigned.judge(reigned.registry.version("adapter", 3), promoted=False)
    entry = answered(reigned, link)
    assert (entry.kind, entry.by) == ("rejected", "nightloom")
    assert "bea approved (read twenty answers), but it was decided anew since" in entry.reason
    assert reigned.aliases()["production"] == 2


def test_an_approval_against_another_reigning_version_moves_nothing(reigned: Shop) -> None:
    link = asked(reigned)
    reigned.promote(1)
    entry = answered(reigned, link)
    assert entry.kind == "rejected"
    assert (
        "the champion was production:2 when it was judged, and is production:1 now" in entry.reason
    )
    assert reigned.aliases()["production"] == 1


def test_an_approval_of_a_bundle_that_was_changed_meanwhile_moves_nothing(reigned: Shop) -> None:
    link = asked(reigned)
    bundle = reigned.registry.bundle("adapter", 3, reigned.downloads)
    (bundle / "settings.json").write_text("changed")
    entry = answered(reigned, link)
    assert (entry.kind, entry.by) == ("rejected", "nightloom")
    assert "bea approved" in entry.reason
    assert "settings.json" in entry.reason
    assert reigned.aliases()["production"] == 2


def test_a_question_that_nobody_waits_for_any_more_expires_at_the_next_release(
    reigned: Shop,
) -> None:
    link = asked(reigned)

    def expire(hours: float) -> list[str]:
        params = APPROVAL.model_copy(update={"approval_hours": hours})
        with reigned.lock.held():
            return expire_old(reigned.ledger, "adapter", params, reigned.downloads)

    assert expire(1) == []
    time.sleep(1.1)
    [told] = expire(1e-4)
    assert told.startswith("nobody answered within 0.0001 hours: may nightloom-adapter version 3")
    assert expire(1e-4) == []
    assert reigned.kinds()[-1] == "expired"
    assert reigned.aliases()["production"] == 2
    assert answered(reigned, link).kind == "expired"  # who answers after that is not heard


def test_an_approved_staging_goes_on_as_the_next_policy_says(reigned: Shop) -> None:
    params = policies("approval", "approval")
    entry = answered(reigned, asked(reigned, params), params=params)
    assert (entry.after["staging"], entry.after["production"], entry.awaits) == (3, 2, "production")


def test_an_entry_that_asks_nothing_is_no_question(reigned: Shop) -> None:
    first = reigned.ledger.links()[0]
    for sha256 in (first.sha256, "f" * 64):
        with pytest.raises(ConfigError, match="there is no question"):
            read_request(reigned.ledger, sha256)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with prefect_server(tmp_path_factory):
        yield


@pytest.fixture
def checkout(reigned_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A project whose stores hold version 3 in staging, which a person is asked about."""
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    content = read_yaml(Path("params/release.yaml")) | {"production": "approval"}
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "release.yaml").write_text(yaml.safe_dump(content))
    shutil.copy("params/promotion.yaml", tmp_path / "params")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(approving, "_LOOK_SECONDS", 1)
    return Shop.open(tmp_path / ".nightloom", reigned_store)


class Asking:
    """The flow that asks, in a thread that sees the harness' server."""

    def __init__(self, shop: Shop, link: Link) -> None:
        self._state: Any = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run, shop, link))
        self._thread.start()

    def _run(self, shop: Shop, link: Link) -> None:
        root = str(shop.root.parent)
        self._state = approving.approve(root=root, entry=link.sha256, return_state=True)

    def paused(self) -> UUID:
        """The id of its run, once it waits for an answer."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with get_client(sync_client=True) as client:
                runs = [run for run in client.read_flow_runs() if _waits(run)]
            if runs:
                return runs[0].id
            time.sleep(0.2)
        raise AssertionError("it did not pause")

    def ended(self) -> Any:
        """The state in which it ended."""
        self._thread.join(timeout=120)
        return self._state


def _waits(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_paused()


def test_the_flow_refuses_answers_that_do_not_fit_and_carries_out_one_that_does(
    harness: None, checkout: Shop
) -> None:
    asking = Asking(checkout, asked(checkout))
    run = asking.paused()
    with get_client(sync_client=True) as client:
        description = client.read_flow_run_input(run, "paused-approval-1-description")
    assert "may nightloom-adapter version 3 go to production?" in description
    assert "compared with production:2" in description
    for wrong in (
        {"decision": "maybe"}, {"version": 4}, {"reason": "  \n "}, {"by": ""}, {"extra": 1},
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="Cannot resume this run"):
            resume_flow_run(run, run_input=FITTING | wrong)
    with pytest.raises(RuntimeError, match="Cannot resume this run"):
        resume_flow_run(run)
    assert checkout.aliases()["production"] == 2
    resume_flow_run(run, run_input=FITTING)
    assert asking.ended().name == "Approved"
    assert checkout.aliases()["production"] == 3
    assert checkout.ledger.links()[-1].entry.by == "bea"


def test_the_flow_ends_as_not_promoted_when_nobody_answers(harness: None, checkout: Shop) -> None:
    params = checkout.root.parent / "params" / "release.yaml"
    params.write_text(yaml.safe_dump(read_yaml(params) | {"approval_hours": 0.0005}))
    state = Asking(checkout, asked(checkout)).ended()
    assert (state.type.value, state.name) == ("COMPLETED", "NotPromoted")
    assert "nobody answered within 0.0005 hours" in state.message
    assert checkout.kinds()[-1] == "expired"
    assert checkout.aliases()["production"] == 2


def test_the_question_links_the_nights_page_where_a_server_shows_it(
    checkout: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = read_request(checkout.ledger, asked(checkout).sha256)
    root = checkout.root.parent
    assert f"MLflow run {question.version.run_id}" in approving._description(root, question)
    monkeypatch.setattr(Tracker, "link", lambda _, page: f"http://127.0.0.1:5000/{page}")
    link = f"http://127.0.0.1:5000/#/experiments/1/runs/{question.version.run_id}"
    assert f"[the night's page]({link})" in approving._description(root, question)


def ask_within_a_flow(shop: Shop, *, shared: bool) -> list[str]:
    @flow
    def asker() -> list[str]:
        return ask_for_approval("adapter", shop.ledger, shared=shared)

    return list(asker())


def test_a_question_is_one_flow_run_however_often_it_is_asked(
    harness: None, checkout: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(checkout)
    [text] = ask_within_a_flow(checkout, shared=False)
    assert "version 3 awaits approval for production; nobody was asked" in text
    [text] = ask_within_a_flow(checkout, shared=True)
    assert "`prefect deploy --name approve` first" in text
    deployment = approving.approve.to_deployment("approve")
    deployment.entrypoint = "flows/approve.py:approve"
    deployment.apply()
    [first] = ask_within_a_flow(checkout, shared=True)
    assert ask_within_a_flow(checkout, shared=True) == [first]
    assert "asked in Prefect's UI as flow run approve adapter 3 to production" in first
    # A run that ended without an answer asks nobody any more.
    set_state(run_of(first), Cancelled())
    [second] = ask_within_a_flow(checkout, shared=True)
    assert run_of(second) != run_of(first)
    assert ask_within_a_flow(checkout, shared=True) == [second]
    # Nor does one that waits in a process which is gone, as all are when `nightloom up` begins.
    set_state(run_of(second), Paused())
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(PromotionLock, "held", lambda lock: nullcontext())
    crash_abandoned(alive=(), ended=(), begun_before=None, pending_seconds=0.0)
    [third] = questions.ask_again(checkout.root.parent)
    assert run_of(third) not in (run_of(first), run_of(second))
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run_of(second))).state
    assert state is not None
    assert state.is_crashed()


def test_questions_say_in_a_line_why_they_could_not_be_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert questions.main(["--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("ConfigError: ")


def run_of(told: str) -> str:
    """The id of the flow run that a sentence names."""
    return told.rpartition("(")[2].rstrip(")")


def set_state(run: str, state: State[Any]) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run), state, force=True)


def test_promoters_that_share_a_server_take_turns_by_its_limit(
    harness: None, tmp_path: Path
) -> None:
    one = PromotionLock(tmp_path / "one", shared=True, wait_seconds=20)
    other = PromotionLock(tmp_path / "other", shared=True, wait_seconds=1)
    with (
        pytest.raises(ConfigError, match=f"no slot of the concurrency limit {PROMOTION_LIMIT}"),
        one.held(),
    ):
        pass
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(PROMOTION_LIMIT, 1)
    with (
        one.held(),
        pytest.raises(ConfigError, match="another promoter held Prefect's concurrency limit"),
        other.held(),
    ):
        pass
    with one.held():
        pass
