"""Waiting for native calls: in an event loop, and in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from pyro_mcp import _native


def wait(call: _native.Call) -> Any:
    """What a call gives, waited for in this thread.

    Where a signal's handler raises, nothing is left of the call: not even what it gave, if it was done.
    """
    try:
        return call.wait()
    except BaseException:
        call.undo().finish()
        raise


async def result(call: _native.Call) -> Any:
    """What a call gives.

    When the task is cancelled the call is given up, and nothing is left of it when `CancelledError` comes out
    of here: not even what it gave, if it was done at that very moment.
    """
    # Here, because programs that only wait need none of it, and it takes longer to import than all of pyro.
    import asyncio

    over = _begin(call)
    try:
        await asyncio.wait([over])
    except asyncio.CancelledError:
        call.cancel()
        # Whoever cancels once more does not want less of that.
        await _whatever_comes(over)
        # By a name, because a call that nobody holds is given up.
        undo = call.undo()
        await _whatever_comes(_begin(undo))
        raise
    return _given(over)


async def finish(call: _native.Call) -> Any:
    """What a call gives that must not be given up. A task that is cancelled meanwhile is so afterwards."""
    over = _begin(call)
    cancelled = await _whatever_comes(over)
    if cancelled is not None:
        raise cancelled
    return _given(over)


def _begin(call: _native.Call) -> asyncio.Future[tuple[Any, BaseException | None]]:
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
    return over


async def _whatever_comes(over: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Waits, however often the task is cancelled. Gives the first of what came of that."""
    import asyncio

    first: asyncio.CancelledError | None = None
    while not over.done():
        try:
            await asyncio.wait([over])
        except asyncio.CancelledError as error:
            first = first or error
    return first


def _given(over: asyncio.Future[tuple[Any, BaseException | None]]) -> Any:
    value, error = over.result()
    if error is not None:
        raise error
    return value
