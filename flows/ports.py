"""Ports for the servers of `up`: the usual ones, else the next that are free.

Several checkouts may start at once, and a server listens only seconds after its port was chosen. So
each `up` claims its ports, for as long as it lives, by names that the kernel keeps for the machine.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tasks.services import HOST
from tasks.stage.errors import ConfigError

PREFECT_PORT, MLFLOW_PORT = 4200, 5000

_TRIED = 100  # ports one after the other


@contextmanager
def claimed_ports(prefect: int | None, mlflow: int | None) -> Iterator[tuple[int, int]]:
    """Hold a port for each server while the block lasts; those that are given, or free ones.

    Raises:
        ConfigError: another `nightloom up` has one that was given, or none is free.
    """
    with ExitStack() as stack:
        yield _choose(stack, prefect, PREFECT_PORT), _choose(stack, mlflow, MLFLOW_PORT)


def _choose(stack: ExitStack, given: int | None, usual: int) -> int:
    if given is not None:
        # Whether something else listens there is looked at as the servers start.
        if not _claim(stack, given):
            raise ConfigError(
                f"port {given} is taken by another `nightloom up` of this machine",
                "choose others with --prefect-port and --mlflow-port, or leave them out",
            )
        return given
    for port in range(usual, usual + _TRIED):
        if _is_free(port) and _claim(stack, port):
            return port
    raise ConfigError(
        f"none of the ports {usual} to {usual + _TRIED - 1} is free",
        "name free ones with --prefect-port and --mlflow-port",
    )


def _is_free(port: int) -> bool:
    """Return whether nothing listens at a port; connections that just ended do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _claim(stack: ExitStack, port: int) -> bool:
    """Return whether no other `up` has claimed a port; it is ours until the stack closes."""
    if sys.platform != "linux":  # names without a file are Linux's
        return True
    claim = stack.enter_context(socket.socket(socket.AF_UNIX))
    try:
        claim.bind(f"\0nightloom-port-{port}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
