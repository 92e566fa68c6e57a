"""The Python client 2.x."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters, stdio_client, types
from mcp.client.streamable_http import streamable_http_client

from client import CALL_SECONDS_MAX, Answer, Endpoint, OnStep, Process, Step, Tool


class Session:
    """A client that is connected."""

    def __init__(self, client: Client) -> None:
        """Wrap a client that is connected."""
        self._client = client

    @property
    def server_name(self) -> str:
        """Give the name by which the server calls itself."""
        info = self._client.server_info
        assert info is not None, "the server does not say who it is"
        return info.name

    @property
    def protocol(self) -> str:
        """Give the revision of the protocol that is spoken."""
        return self._client.protocol_version

    async def tools(self) -> list[Tool]:
        """Ask for the tools."""
        listed = await self._client.list_tools()
        return [
            Tool(tool.name, tool.description or "", tool.input_schema, tool.output_schema)
            for tool in listed.tools
        ]

    async def call(self, name: str, /, on_step: OnStep | None = None, **arguments: Any) -> Answer:
        """Call a tool. Whoever is cancelled while waiting tells the server."""

        async def step(progress: float, total: float | None, message: str | None) -> None:
            if on_step is not None:
                on_step(Step(progress, total, message, time.monotonic()))

        with anyio.fail_after(CALL_SECONDS_MAX):
            result = await self._client.call_tool(
                name, arguments, progress_callback=step if on_step else None
            )
        text = "".join(part.text for part in result.content if isinstance(part, types.TextContent))
        return Answer(result.is_error, result.structured_content or {}, text)


@asynccontextmanager
async def connect(server: Process | Endpoint, handshake: bool) -> AsyncIterator[Session]:
    """Connect; unless told otherwise in the newest revision that both sides know."""
    async with AsyncExitStack() as stack:
        if isinstance(server, Process):
            command, *words = server.command
            parameters = StdioServerParameters(command=command, args=words, env=server.variables)
            log = stack.enter_context(server.log.open("a"))
            transport = stdio_client(parameters, log)
        else:
            http = httpx2.AsyncClient(headers=server.headers, timeout=CALL_SECONDS_MAX)
            await stack.enter_async_context(http)
            transport = streamable_http_client(server.url, http_client=http)
        client = Client(
            transport,
            mode="legacy" if handshake else "auto",
            read_timeout_seconds=CALL_SECONDS_MAX,
        )
        yield Session(await stack.enter_async_context(client))
