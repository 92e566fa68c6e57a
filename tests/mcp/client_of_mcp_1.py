"""The Python client 1.x."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from client import CALL_SECONDS_MAX, Answer, Endpoint, OnStep, Process, Step, Tool


class Session:
    """A client that is connected."""

    def __init__(self, session: ClientSession, greeting: types.InitializeResult) -> None:
        """Wrap a session that is initialised."""
        self._session = session
        self._greeting = greeting

    @property
    def server_name(self) -> str:
        """Give the name by which the server calls itself."""
        return self._greeting.serverInfo.name

    @property
    def protocol(self) -> str:
        """Give the revision of the protocol that is spoken."""
        return str(self._greeting.protocolVersion)

    async def tools(self) -> list[Tool]:
        """Ask for the tools."""
        with anyio.fail_after(CALL_SECONDS_MAX):
            listed = await self._session.list_tools()
        return [
            Tool(tool.name, tool.description or "", tool.inputSchema, tool.outputSchema)
            for tool in listed.tools
        ]

    async def call(self, name: str, /, on_step: OnStep | None = None, **arguments: Any) -> Answer:
        """Call a tool. Whoever is cancelled while waiting tells the server."""

        async def step(progress: float, total: float | None, message: str | None) -> None:
            if on_step is not None:
                on_step(Step(progress, total, message, time.monotonic()))

        # The number that the request gets before anything else is awaited.
        request_id = self._session._request_id
        try:
            with anyio.fail_after(CALL_SECONDS_MAX):
                result = await self._session.call_tool(
                    name, arguments, progress_callback=step if on_step else None
                )
        except anyio.get_cancelled_exc_class():
            # This client leaves it to its user to tell the server.
            with anyio.CancelScope(shield=True):
                await self._cancel(request_id)
            raise
        text = "".join(part.text for part in result.content if isinstance(part, types.TextContent))
        return Answer(result.isError, result.structuredContent or {}, text)

    async def _cancel(self, request_id: int) -> None:
        params = types.CancelledNotificationParams(requestId=request_id, reason="no longer needed")
        notification = types.CancelledNotification(params=params)
        await self._session.send_notification(types.ClientNotification(notification))


@asynccontextmanager
async def connect(server: Process | Endpoint, _handshake: bool) -> AsyncIterator[Session]:
    """Connect; the handshake is all that this client knows."""
    async with AsyncExitStack() as stack:
        if isinstance(server, Process):
            command, *words = server.command
            parameters = StdioServerParameters(command=command, args=words, env=server.variables)
            log = stack.enter_context(server.log.open("a"))
            read, write = await stack.enter_async_context(stdio_client(parameters, log))
        else:
            http = httpx.AsyncClient(headers=server.headers, timeout=CALL_SECONDS_MAX)
            await stack.enter_async_context(http)
            transport = streamable_http_client(server.url, http_client=http)
            read, write, _ = await stack.enter_async_context(transport)
        session = await stack.enter_async_context(ClientSession(read, write))
        with anyio.fail_after(CALL_SECONDS_MAX):
            greeting = await session.initialize()
        yield Session(session, greeting)
