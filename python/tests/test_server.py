"""The MCP server of the SDK: the same objects, within this process and beyond it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Coroutine
from typing import Any, TypeVar

import host
import pytest
from pyro_mcp import AsyncPyro, InvalidInputError, Pyro, create_server

T = TypeVar("T")

TOOLS = {
    "vm_run",
    "vm_list_environments",
    "vm_create",
    "vm_start",
    "vm_exec",
    "vm_stop",
    "vm_delete",
    "vm_status",
    "vm_network_info",
    "vm_reap_expired",
}


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 120))


def test_every_tool_of_the_contract_is_there(pyro: Pyro):
    for server in (create_server(), pyro.create_server(), AsyncPyro().create_server()):
        assert {tool["name"] for tool in run(server.list_tools())} >= TOOLS
    few = run(pyro.create_server(profile="run").list_tools())
    assert {tool["name"] for tool in few} < TOOLS


def test_settings_that_make_no_sense_are_refused(pyro: Pyro):
    with pytest.raises(InvalidInputError, match="profile must be full or run"):
        pyro.create_server(profile="vm-run")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="transport must be stdio or http"):
        pyro.create_server().run("sse")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="host must be an address"):
        pyro.create_server().run("http", host="nowhere")


def test_a_call_has_the_same_keys_on_every_surface(pyro: Pyro):
    command = "echo hi; exit 3"

    async def main() -> None:
        server = pyro.create_server()

        async def call(name: str, **arguments: object) -> Any:
            answer = await server.call_tool(name, arguments)
            assert not answer.get("isError"), answer
            return answer["structuredContent"]

        # SDK, MCP and command line, for each call that gives an object.
        ours = await AsyncPyro().run_in_vm(environment=host.ENVIRONMENT, command=command)
        theirs = await call("vm_run", environment=host.ENVIRONMENT, command=command)
        line = json.loads(host.cli("run", "--json", host.ENVIRONMENT, "--", "sh", "-c", command).stdout)
        assert ours.keys() == theirs.keys() == line.keys()
        assert (theirs["stdout"], theirs["exit_code"]) == ("hi\n", 3)
        created = await call("vm_create", environment=host.ENVIRONMENT)
        vm_id = created["vm_id"]
        assert (
            created == pyro.status_vm(vm_id) == json.loads(host.cli("vm", "status", "--json", vm_id).stdout)
        )
        assert await call("vm_start", vm_id=vm_id) == pyro.status_vm(vm_id)
        ours = pyro.exec_vm(vm_id, command="true")
        theirs = await call("vm_exec", vm_id=vm_id, command="true")
        line = json.loads(host.cli("vm", "exec", "--json", vm_id, "--", "true").stdout)
        assert ours.keys() == theirs.keys() == line.keys()
        assert await call("vm_network_info", vm_id=vm_id) == pyro.network_info_vm(vm_id)
        assert (await call("vm_stop", vm_id=vm_id))["state"] == "stopped"
        assert (await call("vm_delete", vm_id=vm_id))["reason"] == "explicit_delete"
        assert await call("vm_reap_expired") == pyro.reap_expired()
        listed = await call("vm_list_environments")
        assert pyro.list_environments() in (listed, *listed.values())

    run(main())


def test_a_pin_of_the_network_holds_for_every_call(pyro: Pyro):
    server = pyro.create_server(network_pin={"network": False})
    arguments = {"environment": host.ENVIRONMENT, "command": "true", "network": True}
    answer = run(server.call_tool("vm_run", arguments))
    assert answer["structuredContent"]["error"]["message"] == "network must be false"
    with pytest.raises(InvalidInputError, match="allow_hosts: '' is no host"):
        pyro.create_server(network_pin={"allow_hosts": [""]})
    with pytest.raises(TypeError, match="network_pin has no 'allow_host'"):
        pyro.create_server(network_pin={"allow_host": []})  # type: ignore[typeddict-unknown-key]


def test_a_tool_that_fails_answers(pyro: Pyro):
    answer = run(pyro.create_server().call_tool("vm_status", {"vm_id": "0123456789ab"}))
    assert answer["isError"]
    error = answer["structuredContent"]["error"]
    assert (error["code"], error["message"]) == ("unknown_vm", "vm '0123456789ab' does not exist")


def test_a_cancelled_call_ends_its_command(pyro: Pyro):
    async def main() -> None:
        arguments = {"environment": host.ENVIRONMENT, "command": "sleep 1000", "timeout_seconds": 900}
        task = asyncio.create_task(pyro.create_server().call_tool("vm_run", arguments))
        while not host.children():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_client_that_starts_the_server_is_served(pyro: Pyro):
    script = "from pyro_mcp import create_server; create_server().run()"
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(hello) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert answer["result"]["serverInfo"]["name"] == "pyro_mcp"
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_client_that_shows_the_token_is_served_over_http(pyro: Pyro):
    token = "0123456789abcdef" * 4
    script = f"from pyro_mcp import Pyro; Pyro().create_server().run('http', port=0, token='{token}')"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stderr is not None
    url = process.stderr.readline().split()[-1]
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert b"pyro_mcp" in answer.read()
    process.send_signal(signal.SIGINT)
    before = time.monotonic()
    _, stderr = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in stderr
    assert time.monotonic() - before < 5
