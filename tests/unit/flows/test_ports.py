"""The ports of `up`: the usual ones, the next free ones, and never one for two checkouts."""

import socket
from contextlib import ExitStack

import pytest

from flows import ports
from flows.ports import claimed_ports
from tasks.services import HOST
from tasks.stage.errors import ConfigError


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Let the usual ports be two that nothing here uses."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        base = min(probe.getsockname()[1], 65000)
    monkeypatch.setattr(ports, "PREFECT_PORT", base)
    monkeypatch.setattr(ports, "MLFLOW_PORT", base + 200)
    return base, base + 200


def test_the_usual_ports_are_taken_where_they_are_free(usual: tuple[int, int]) -> None:
    with claimed_ports(None, None) as found:
        assert found == usual


def test_two_that_start_at_once_never_have_one_port(usual: tuple[int, int]) -> None:
    """Neither listens yet."""
    with claimed_ports(None, None) as first, claimed_ports(None, None) as second:
        assert second == (first[0] + 1, first[1] + 1)
    with claimed_ports(None, None) as third:
        assert third == first


def test_a_port_at_which_something_listens_is_passed_by(usual: tuple[int, int]) -> None:
    with socket.socket() as other:
        other.bind((HOST, usual[0]))
        other.listen()
        with claimed_ports(None, None) as found:
            assert found == (usual[0] + 1, usual[1])


def test_a_port_that_was_asked_for_is_never_another(usual: tuple[int, int]) -> None:
    with claimed_ports(usual[0] + 7, None) as found:
        assert found == (usual[0] + 7, usual[1])
        with pytest.raises(ConfigError, match="another `nightloom up`"), ExitStack() as stack:
            stack.enter_context(claimed_ports(usual[0] + 7, None))


def test_no_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda _: False)
    with pytest.raises(ConfigError, match="--prefect-port"), ExitStack() as stack:
        stack.enter_context(claimed_ports(None, None))
