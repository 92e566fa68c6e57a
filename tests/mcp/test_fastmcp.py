"""The client of FastMCP."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError

from host import BASE, Host
from server import HttpServer, StdioServer


@pytest.fixture
async def client(host: Host, transport: str) -> AsyncIterator[Client[Any]]:
    """Connect to a server over either transport."""
    if transport == "stdio":
        command, *words = StdioServer(host).command()
        standard = StdioTransport(
            command, words, env=host.variables, keep_alive=False, log_file=host.log
        )
        async with connected(Client(standard)) as client:
            yield client
        return
    server = HttpServer(host)
    try:
        assert server.token is not None
        async with connected(
            Client(StreamableHttpTransport(server.url, auth=server.token))
        ) as client:
            yield client
    finally:
        server.close()


def connected(client: Client[Any]) -> AbstractAsyncContextManager[Client[Any]]:
    return client


async def test_its_client_runs_a_command(client: Client[Any]) -> None:
    assert "vm_run" in [tool.name for tool in await client.list_tools()]
    result = await client.call_tool("vm_run", {"environment": BASE, "command": "echo hi; exit 3"})
    assert result.structured_content is not None
    assert result.structured_content["stdout"] == "hi\n"
    assert result.structured_content["exit_code"] == 3


async def test_its_client_makes_data_of_the_output_schema(client: Client[Any]) -> None:
    result = await client.call_tool("vm_run", {"environment": BASE, "command": "echo hi"})
    assert result.data is not None
    data = result.data if isinstance(result.data, dict) else vars(result.data)
    assert (data["stdout"], data["exit_code"], data["timed_out"]) == ("hi\n", 0, False)


async def test_its_client_raises_what_pyro_refuses(client: Client[Any]) -> None:
    with pytest.raises(ToolError, match="unknown environment 'fedora:40'; expected one of"):
        await client.call_tool("vm_run", {"environment": "fedora:40", "command": "true"})


async def test_its_client_uses_a_vm_over_several_calls(client: Client[Any]) -> None:
    made = (await client.call_tool("vm_create", {"environment": BASE})).structured_content
    assert made is not None
    vm = {"vm_id": made["vm_id"]}
    await client.call_tool("vm_start", vm)
    for command in ("echo kept > /root/note", "cat /root/note"):
        result = await client.call_tool("vm_exec", vm | {"command": command})
    assert result.structured_content is not None
    assert result.structured_content["stdout"] == "kept\n"
    await client.call_tool("vm_delete", vm)
