"""Many runs leave nothing: no descriptor, no thread, no process. Every other test looks as well."""

from __future__ import annotations

import asyncio
import gc
import resource

import host
from pyro_mcp import AsyncPyro, Pyro

SEQUENTIAL = 200


def test_many_runs_one_after_the_other_leave_nothing(pyro: Pyro):
    pyro.run_in_vm(environment=host.ENVIRONMENT, command="true")
    descriptors, memory = len(host.descriptors()), 0
    for number in range(SEQUENTIAL):
        outcome = pyro.run_in_vm(environment=host.ENVIRONMENT, command="true", timeout_seconds=100)
        assert outcome["exit_code"] == 0
        assert host.children() == [], "when a run has returned its supervisor is gone"
        assert len(host.descriptors()) == descriptors
        if number == SEQUENTIAL // 2:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 4096, f"{grown} KiB more after as many runs again"


def test_calls_that_are_never_made_leave_nothing(pyro: Pyro):
    descriptors = len(host.descriptors())

    async def main() -> None:
        asynchronous = AsyncPyro()
        for _ in range(100):
            asynchronous.run_in_vm(environment=host.ENVIRONMENT, command="true").close()

    asyncio.run(main())
    gc.collect()
    assert len(host.descriptors()) == descriptors
    assert host.children() == []
