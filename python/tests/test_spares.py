"""Spares: VMs that are there before they are asked for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import host
import pytest
from pyro_mcp import AsyncPyro, InvalidInputError, Pyro


def standing() -> list[Path]:
    """The sockets at which spares wait for their claim."""
    return list(Path(os.environ["PYRO_STATE_DIR"]).glob("spares/*/[0-9a-f]*"))


def test_the_second_run_gets_a_spare_and_close_leaves_none():
    with Pyro(spares=1) as pyro:
        first = pyro.run_in_vm(environment=host.ENVIRONMENT, command="true")
        assert first["vm_start"] == "restored"
        assert host.settled(standing)
        second = pyro.run_in_vm(environment=host.ENVIRONMENT, command="echo hi")
        assert (second["vm_start"], second["stdout"]) == ("spare", "hi\n")
        assert host.settled(standing), "it is replaced"
    assert standing() == []
    # It goes on without.
    assert pyro.run_in_vm(environment=host.ENVIRONMENT, command="true")["vm_start"] == "restored"


def test_the_same_for_asyncio():
    async def runs() -> list[str | None]:
        async with AsyncPyro(spares=1) as pyro:
            first = await pyro.run_in_vm(environment=host.ENVIRONMENT, command="true")
            assert await asyncio.to_thread(host.settled, standing)
            second = await pyro.run_in_vm(environment=host.ENVIRONMENT, command="true")
            return [first["vm_start"], second["vm_start"]]

    assert asyncio.run(runs()) == ["restored", "spare"]
    assert standing() == []


def test_close_without_spares_does_nothing():
    Pyro().close()


def test_a_number_out_of_range_is_refused():
    with pytest.raises(InvalidInputError, match="between 1 and 16, not 17"):
        Pyro(spares=17)
