"""The ledger keeps every decision, and finds what was done to it."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tasks.registry.ledger import BEGINNING, HEAD_TAG, Statement
from tasks.registry.versions import model_name
from tasks.stage.errors import ConfigError, GateError
from tests.builders.registry import Shop


def statement(identity: str, reason: str = "because") -> Statement:
    return Statement(
        id=identity, kind="moved", model="adapter", version=1, key="", by="ann", reason=reason,
        evidence={}, before={}, after={}, awaits=None,
    )  # fmt: skip


def test_an_entry_says_who_decided_what_why_on_which_evidence(reigned: Shop) -> None:
    first, second, *_ = (link.entry for link in reigned.ledger.links())
    assert (first.number, first.kind, first.by) == (1, "promoted", "nightloom")
    assert set(first.evidence) == {"bundle_manifest", "metrics", "reigning"}
    assert first.key == reigned.key("one")
    assert (second.by, second.reason) == ("ann", "checked by hand")
    assert (second.before.get("production"), second.after["production"]) == (None, 1)
    assert reigned.faults() == ()


def test_each_entry_is_chained_to_the_last_by_its_sha256(reigned: Shop) -> None:
    links = reigned.ledger.links()
    before = [link.sha256 for link in links]
    assert [link.entry.previous for link in links] == ["0" * 64, *before[:-1]]


def test_of_two_ledgers_that_are_begun_at_once_the_first_has_the_entry(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run

    def overtaken(client: MlflowClient, experiment: str, **named: Any) -> Any:
        if named["run_name"] == "ledger":
            create(client, experiment, **named)
            time.sleep(0.01)  # runs are told apart by milliseconds
        return create(client, experiment, **named)

    monkeypatch.setattr(MlflowClient, "create_run", overtaken)
    shop.release("one")
    assert shop.kinds()[-1] == "promoted"
    assert shop.faults() == ()


def test_a_decision_that_is_told_twice_is_one_entry(shop: Shop) -> None:
    shop.register("one")
    shop.ledger.append(statement("a"))
    shop.ledger.append(statement("b"))
    assert shop.ledger.append(statement("a")).entry.number == 1
    assert len(shop.ledger.links()) == 2
    assert shop.faults() == ()


def test_an_entry_that_mlflow_would_cut_is_refused(shop: Shop) -> None:
    shop.register("one")
    with pytest.raises(ConfigError, match="MLflow keeps 6000"):
        shop.ledger.append(statement("a", reason="x" * 6000))


def test_a_reason_is_told_rule_by_rule_and_what_a_person_wrote_as_it_is() -> None:
    rules = statement("a", "adapter: warning: 4 of 9; at most 3; adapter: gains +0.1")
    assert rules.reasons == ["warning: 4 of 9; at most 3", "gains +0.1"]
    assert statement("b", "it answers well; ship it").reasons == ["it answers well; ship it"]


def execute(*commands: str) -> Callable[[Shop], None]:
    def damage(shop: Shop) -> None:
        with sqlite3.connect(shop.database) as connection:
            for command in commands:
                connection.execute(command)

    return damage


def change(shop: Shop) -> None:
    """Entry 2 says that somebody else decided."""
    with sqlite3.connect(shop.database) as connection:
        [text] = connection.execute("SELECT value FROM params WHERE key = '00000002'").fetchone()
        forged = json.dumps(json.loads(text) | {"by": "eve"}, separators=(",", ":"))
        connection.execute("UPDATE params SET value = ? WHERE key = '00000002'", (forged,))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change, "entry 3 follows"),
        (execute("UPDATE params SET value = '{}' WHERE key = '00000002'"), "entry 2 is none"),
        (execute("DELETE FROM params WHERE key = '00000002'"), "entry 2 is missing"),
        (execute("DELETE FROM params WHERE key = '00000001'"), "entry 1 is missing"),
        (execute("DELETE FROM params WHERE key = '00000004'"), "entry 4: the head that the adap"),
        (execute("DELETE FROM params WHERE key > '0'"), "entry 4: the head that the adapter"),
        (
            execute(
                "UPDATE params SET key = 'x' WHERE key = '00000002'",
                "UPDATE params SET key = '00000002' WHERE key = '00000003'",
                "UPDATE params SET key = '00000003' WHERE key = 'x'",
            ),
            "entry 2 says that it is number 3",
        ),
        (
            execute(f"UPDATE registered_model_tags SET value = '3:0' WHERE key = '{HEAD_TAG}'"),
            "entry 4: no head names it",
        ),
    ],
    ids=["changed", "emptied", "deleted", "first", "last", "all", "swapped", "head"],
)
def test_what_was_changed_deleted_or_moved_is_named(
    damage: Callable[[Shop], None], named: str, reigned: Shop
) -> None:
    damage(reigned)
    assert any(named in fault for fault in reigned.faults()), reigned.faults()


def test_a_deleted_run_is_found_and_promotion_goes_on_with_the_gap_to_be_seen(
    reigned: Shop,
) -> None:
    [run] = reigned.ledger._runs()
    reigned.client.delete_run(run.info.run_id)
    assert any("entry 4" in fault for fault in reigned.faults())
    with pytest.raises(GateError, match="the ledger says nothing"):
        reigned.promote(1)
    reigned.promote(1, despite_refusal=True)
    assert reigned.aliases()["production"] == 1
    assert reigned.ledger.links()[-1].entry.number == 6  # 5 says where the aliases stood
    assert any("entry 1 is missing: the next one is 5" in fault for fault in reigned.faults())


def test_a_ledger_that_is_gone_with_its_heads_is_missed_by_versions_and_aliases(
    reigned: Shop,
) -> None:
    [run] = reigned.ledger._runs()
    reigned.client.delete_run(run.info.run_id)
    reigned.client.delete_registered_model_tag(model_name("adapter"), HEAD_TAG)
    faults = reigned.faults()
    assert "nightloom-adapter version 1 is tagged promoted, and no entry tells of a" in faults[0]
    assert any("alias production names 2, and by the last entry nothing" in one for one in faults)


def test_a_deleted_head_and_an_alias_that_was_moved_in_mlflow_are_named(reigned: Shop) -> None:
    reigned.client.delete_registered_model_tag(model_name("adapter"), HEAD_TAG)
    assert any("the adapter carries no head, and 4 entries" in one for one in reigned.faults())
    reigned.client.set_registered_model_alias(model_name("adapter"), "production", "1")
    assert any("production names 1, and by the last entry 2" in one for one in reigned.faults())


def test_a_changed_last_entry_is_still_found_after_the_next_decision(reigned: Shop) -> None:
    with sqlite3.connect(reigned.database) as connection:
        [text] = connection.execute("SELECT value FROM params WHERE key = '00000004'").fetchone()
        forged = json.dumps(json.loads(text) | {"by": "eve"}, separators=(",", ":"))
        connection.execute("UPDATE params SET value = ? WHERE key = '00000004'", (forged,))
    assert any("entry 4: the head" in fault for fault in reigned.faults())
    reigned.promote(1)
    assert any("entry 5 follows" in fault for fault in reigned.faults())


def test_a_second_ledger_beside_the_first_is_named(reigned: Shop) -> None:
    experiment = reigned.client.get_experiment_by_name("nightloom-ledger")
    other = reigned.client.create_run(experiment.experiment_id)
    reigned.client.log_param(other.info.run_id, "00000001", "x")
    assert "is a second ledger beside the first" in reigned.faults()[0]


def test_whoever_rewrites_the_chain_and_its_head_is_found_only_by_a_hash_noted_elsewhere(
    reigned: Shop,
) -> None:
    noted = reigned.ledger.links()[-1].sha256
    previous = BEGINNING
    with sqlite3.connect(reigned.database) as connection:
        rows = connection.execute("SELECT key, value FROM params WHERE key LIKE '0000%'").fetchall()
        for key, text in sorted(rows):
            entry = json.loads(text) | {"by": "eve", "previous": previous}
            forged = json.dumps(entry, separators=(",", ":"))
            previous = hashlib.sha256(forged.encode()).hexdigest()
            connection.execute("UPDATE params SET value = ? WHERE key = ?", (forged, key))
        head = f"{len(rows)}:{previous}"
        connection.execute(
            "UPDATE registered_model_tags SET value = ? WHERE key = ?", (head, HEAD_TAG)
        )
    assert reigned.faults() == ()
    assert {link.entry.by for link in reigned.ledger.links()} == {"eve"}
    assert all(link.sha256 != noted for link in reigned.ledger.links())


def test_mlflow_itself_refuses_to_change_an_entry(reigned: Shop) -> None:
    [run] = reigned.ledger._runs()
    with pytest.raises(Exception, match="Changing param values is not allowed"):
        reigned.client.log_param(run.info.run_id, "00000002", "forged")


@pytest.mark.slow
def test_both_models_share_one_chain(shop: Shop) -> None:
    shop.release("one", model="adapter")
    shop.release("one", model="student")
    shop.promote(1)
    assert [link.entry.model for link in shop.ledger.links()] == ["adapter", "student", "adapter"]
    assert len(shop.ledger.links("student")) == 1
    assert model_name("student") == "nightloom-student"
    assert shop.faults() == ()


def test_before_the_first_decision_the_ledger_is_empty_and_whole(shop: Shop) -> None:
    assert shop.ledger.links() == []
    assert shop.ledger.last("adapter") is None
    assert shop.faults() == ()
