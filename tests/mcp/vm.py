"""VMs with a life of their own, as tests use them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from client import Session
from host import BASE

WAIT_SECONDS_MAX = 60.0
WAIT_SECONDS_BETWEEN = 0.02


@asynccontextmanager
async def created(session: Session, **arguments: Any) -> AsyncIterator[str]:
    """Make a VM, and delete it in the end."""
    made = (await session.call("vm_create", environment=BASE, **arguments)).success()
    vm_id = str(made["vm_id"])
    try:
        yield vm_id
    finally:
        (await session.call("vm_delete", vm_id=vm_id)).success()


@asynccontextmanager
async def started(session: Session, **arguments: Any) -> AsyncIterator[str]:
    """Make a VM and start it, and delete it in the end."""
    async with created(session, **arguments) as vm_id:
        (await session.call("vm_start", vm_id=vm_id)).success()
        yield vm_id


async def until(holds: Callable[[], object], claim: str) -> None:
    """Wait until something holds that no event tells of."""
    deadline = anyio.current_time() + WAIT_SECONDS_MAX
    while not holds():
        assert anyio.current_time() < deadline, f"not within {WAIT_SECONDS_MAX} s: {claim}"
        await anyio.sleep(WAIT_SECONDS_BETWEEN)
