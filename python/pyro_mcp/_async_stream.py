"""A command whose output an event loop reads while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeAlias

from pyro_mcp import _await
from pyro_mcp._payloads import Output
from pyro_mcp._stream import OutcomeT

if TYPE_CHECKING:
    from pyro_mcp import _native

OnOutput: TypeAlias = Callable[[bytes], "Awaitable[object] | object"]
"""Is given each piece of output as it comes. What it gives is awaited, if it can be."""


class AsyncStream(Generic[OutcomeT]):
    """A command that runs while its output is read: `Stream` for asyncio.

    ```python
    async with vm.stream("make") as stream:
        async for output in stream:
            print(output.data)
        outcome = await stream.outcome()
    ```
    """

    def __init__(self, native: _native.Stream) -> None:
        self._native = native

    async def __aenter__(self) -> AsyncStream[OutcomeT]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        piece = await _await.result(self._native.next())
        if piece is None:
            raise StopAsyncIteration
        return Output(*piece)

    async def outcome(self) -> OutcomeT:
        """What became of the command. Waits for its end, and passes over output that was not read yet."""
        return await self.feed(None, None)

    async def feed(self, on_stdout: OnOutput | None, on_stderr: OnOutput | None) -> OutcomeT:
        """Calls a function, which may be a coroutine function, with each piece of output."""
        async for stream, data in self:
            on_output = on_stdout if stream == "stdout" else on_stderr
            if on_output is not None:
                given = on_output(data)
                if isinstance(given, Awaitable):
                    await given
        outcome: OutcomeT = await _await.result(self._native.outcome())
        return outcome

    async def close(self) -> None:
        """Ends the command if it still runs, and waits until nothing of it is left."""
        await _await.finish(self._native.close())
