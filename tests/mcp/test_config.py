"""`pyro mcp config`: what it prints is what a client needs."""

import json
import subprocess
import tomllib
from typing import Any

import pytest
from fastmcp import Client

from client import Process, connect
from host import Host, executable

ENTRIES = {
    "claude-code": "mcpServers",
    "claude-desktop": "mcpServers",
    "codex": "mcp_servers",
    "cursor": "mcpServers",
    "gemini": "mcpServers",
    "opencode": "mcp",
    "vscode": "servers",
}
"""Under which key each client looks for its servers."""

PROFILE_RUN = ["vm_list_environments", "vm_run"]


def configuration(host: Host, client: str) -> dict[str, Any]:
    """Have a configuration printed whose server offers the tools of the profile `run`."""
    outcome = subprocess.run(
        [executable(), "mcp", "config", "--client", client, "--", "--profile", "run"],
        env=host.variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return tomllib.loads(outcome.stdout) if client == "codex" else json.loads(outcome.stdout)


def command(entry: dict[str, Any]) -> list[str]:
    """Read how a client starts the server."""
    words = entry["command"]
    return words if isinstance(words, list) else [words, *entry["args"]]


@pytest.mark.parametrize("client", ENTRIES)
async def test_the_command_line_that_a_client_is_told_starts_the_server(
    host: Host, client: str
) -> None:
    words = command(configuration(host, client)[ENTRIES[client]]["pyro"])
    server = Process(host.family.command(*words), host.variables, host.log)
    async with connect(server) as session:
        assert sorted(tool.name for tool in await session.tools()) == PROFILE_RUN


async def test_fastmcp_takes_the_configuration_as_it_is_printed(host: Host) -> None:
    printed = configuration(host, "claude-code")
    printed["mcpServers"]["pyro"] |= {"env": host.variables, "keep_alive": False}
    async with Client[Any](printed) as client:
        assert sorted(tool.name for tool in await client.list_tools()) == PROFILE_RUN
