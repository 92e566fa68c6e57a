"""The command line of the MCP Inspector."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import node
from host import BASE, Host
from server import HttpServer, StdioServer

INSPECTOR = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"

TOOL_FAILED = 5
"""How it exits where a tool answers with an error."""


class Inspector:
    """The program with a server to speak to."""

    def __init__(self, host: Host, target: list[str], era: str) -> None:
        """Remember the server and the revision of the protocol to speak."""
        self._host, self._target, self._era = host, target, era

    def ask(self, method: str, *options: str, status: int = 0) -> dict[str, Any]:
        """Call one method and give what it answers."""
        outcome = self.run(method, *options)
        assert outcome.returncode == status, outcome.stdout + outcome.stderr
        answer: dict[str, Any] = json.loads(outcome.stdout)["result"]
        return answer

    def run(self, method: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the program."""
        words = ("--cli", "--method", method, "--protocol-era", self._era, "--format", "json")
        variables = self._host.variables | {"MCP_INSPECTOR_SECRET_STORE": "memory"}
        directory = self._host.directory
        return node.run(
            INSPECTOR, *words, *options, *self._target, directory=directory, variables=variables
        )

    def call(self, tool: str, status: int = 0, **arguments: Any) -> dict[str, Any]:
        """Call one tool and give its result."""
        words = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        return self.ask("tools/call", *words, status=status)


@pytest.fixture(params=[("stdio", "legacy"), ("http", "modern")], ids="-".join)
def inspector(host: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Inspector]:
    """Point it at a server over either transport, and in either era of the protocol."""
    transport, era = request.param
    if transport == "stdio":
        command, *words = StdioServer(host).command()
        config = tmp_path / "servers.json"
        server = {"type": "stdio", "command": command, "args": words, "env": host.variables}
        config.write_text(json.dumps({"mcpServers": {"pyro": server}}))
        yield Inspector(host, ["--config", str(config), "--server", "pyro"], era)
        return
    http = HttpServer(host)
    token = f"Authorization: Bearer {http.token}"
    yield Inspector(host, ["--server-url", http.url, "--header", token], era)
    http.close()


def test_it_lists_the_tools(inspector: Inspector) -> None:
    names = [tool["name"] for tool in inspector.ask("tools/list")["tools"]]
    assert {"vm_run", "vm_list_environments"} <= set(names)


def test_it_finds_every_schema_portable(inspector: Inspector) -> None:
    outcome = inspector.run("tools/list", "--strict")
    assert outcome.returncode == 0
    assert "tool" not in outcome.stderr, outcome.stderr


def test_it_runs_a_command(inspector: Inspector) -> None:
    result = inspector.call("vm_run", environment=BASE, command="echo hi; exit 3")
    assert not result.get("isError")
    assert result["structuredContent"]["stdout"] == "hi\n"
    assert result["structuredContent"]["exit_code"] == 3
    assert result["content"][0]["text"].startswith("hi\n")


def test_it_shows_what_pyro_refuses(inspector: Inspector) -> None:
    result = inspector.call("vm_run", TOOL_FAILED, environment="fedora:40", command="true")
    assert result["isError"] is True
    assert result["structuredContent"]["error"]["code"] == "unknown_environment"
