"""What every test shares, above all: nothing may stay behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import host
import pytest
from pyro_mcp import VM, Pyro


@pytest.fixture(scope="session")
def pyro() -> Pyro:
    """One for all tests, as a program would have it. Its environment is pulled, its template made."""
    pyro = Pyro()
    pyro.run_in_vm(environment=host.ENVIRONMENT, command="true", timeout_seconds=600)
    return pyro


@pytest.fixture
def vm(pyro: Pyro) -> Iterator[VM]:
    """A VM that was started."""
    with pyro.vm(host.ENVIRONMENT) as vm:
        yield vm


@pytest.fixture
def python() -> Callable[..., list[str]]:
    """The command line of this interpreter for a script."""

    def command(script: str, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "error", "-c", script, *arguments]

    return command


@pytest.fixture(autouse=True)
def _nothing_stays(pyro: Pyro) -> Iterator[None]:
    descriptors = host.descriptors()
    yield
    state = Path(os.environ["PYRO_STATE_DIR"])
    assert host.settled(lambda: not host.holders(state)), host.holders(state)
    assert host.settled(lambda: not host.children()), host.children()
    assert host.settled(lambda: len(host.descriptors()) <= len(descriptors)), (
        descriptors,
        host.descriptors(),
    )
    assert host.settled(lambda: len(host.threads()) <= host.THREADS_MAX), host.threads()
    assert host.settled(lambda: not host.files(state)), host.files(state)
