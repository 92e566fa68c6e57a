"""Waiting for native calls in an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from pyro_mcp import _native


async def result(call: _native.Call, undo: Callable[[Any], Awaitable[object]] | None = None) -> Any:
    """What a call gives.

    When the task is cancelled the call is given up, and nothing is left of it when `CancelledError` comes out
    of here. If it was done at that very moment, `undo` is given what nobody will see.
    """
    # Here, because programs that only wait need none of it, and it takes longer to import than all of pyro.
    import asyncio

    loop = asyncio.get_running_loop()
    over: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def keep(value: Any, error: BaseException | None) -> None:
        if not over.done():
            over.set_result((value, error))

    def done(value: Any, error: BaseException | None) -> None:
        # In a thread of the runtime. The loop may have been closed meanwhile: then nobody waits any more.
        if not loop.is_closed():
            try:
                loop.call_soon_threadsafe(keep, value, error)
            except RuntimeError:
                if not loop.is_closed():
                    raise

    call.begin(done)
    try:
        value, error = await asyncio.shield(over)
    except asyncio.CancelledError:
        call.cancel()
        value, error = await asyncio.shield(over)
        if error is None and value is not None and undo is not None:
            await undo(value)
        raise
    if error is not None:
        raise error
    return value
