"""What the server says of itself and of its tools."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from client import Session
from conftest import Serve
from host import Host
from server import HttpServer, Server, StdioServer

REQUIRED = object()

NOTHING = None
"""What may be left out, and then is nothing, false, zero or empty."""

OUTPUT_BYTES_MAX = 16384

SHAPE = {
    "environment": REQUIRED,
    "vcpu_count": 1,
    "mem_mib": 1024,
    "ttl_seconds": 600,
    "network": NOTHING,
    "allow_hosts": NOTHING,
    "allow_cidrs": NOTHING,
    "deny_hosts": NOTHING,
    "deny_cidrs": NOTHING,
    "allow_public": NOTHING,
    "publish": NOTHING,
    "host_proxy": NOTHING,
    "host_ca": NOTHING,
    "allow_host_compat": NOTHING,
}

COMMAND = {
    "command": REQUIRED,
    "timeout_seconds": 30,
    "env": NOTHING,
    "cwd": NOTHING,
    "stdin": NOTHING,
    "output_bytes_max": OUTPUT_BYTES_MAX,
}

VM = {"vm_id": REQUIRED}

CONTRACT: dict[str, dict[str, object]] = {
    "vm_run": SHAPE | COMMAND,
    "vm_list_environments": {},
    "vm_list": {},
    "vm_create": SHAPE | {"metadata": NOTHING},
    "vm_start": VM,
    "vm_exec": VM | COMMAND,
    "vm_logs": VM
    | {
        "run_id": NOTHING,
        "stream": "stdout",
        "offset": NOTHING,
        "bytes_max": OUTPUT_BYTES_MAX,
    },
    "vm_stop": VM,
    "vm_delete": VM,
    "vm_status": VM,
    "vm_network_info": VM,
    "vm_reap_expired": {},
}
"""What may be added to, but never renamed, removed or given another default."""


def arguments(schema: dict[str, Any]) -> dict[str, object]:
    required = schema.get("required", [])
    return {
        name: REQUIRED if name in required else (described.get("default") or NOTHING)
        for name, described in schema.get("properties", {}).items()
    }


async def test_every_tool_of_the_contract_is_listed_with_its_defaults(session: Session) -> None:
    tools = {tool.name: arguments(tool.input_schema) for tool in await session.tools()}
    for name, promised in CONTRACT.items():
        assert tools[name] | promised == tools[name], name
        added = tools[name].keys() - promised.keys()
        assert all(tools[name][argument] is not REQUIRED for argument in added), name


async def test_the_tools_are_the_same_over_both_transports(host: Host) -> None:
    async with StdioServer(host).connect() as session:
        over_stdio = await session.tools()
    server = HttpServer(host)
    try:
        async with server.connect() as session:
            over_http = await session.tools()
    finally:
        server.close()
    assert over_stdio == over_http


async def test_every_tool_is_described_and_has_valid_schemas(session: Session) -> None:
    for tool in await session.tools():
        assert tool.description, tool.name
        assert tool.output_schema is not None, tool.name
        for schema in (tool.input_schema, tool.output_schema):
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object", tool.name


async def test_the_server_calls_itself_pyro_mcp(session: Session) -> None:
    assert session.server_name == "pyro_mcp"


async def test_the_profile_run_offers_two_tools(serve: Serve) -> None:
    async with serve("--profile", "run").connect() as session:
        names = [tool.name for tool in await session.tools()]
    assert sorted(names) == ["vm_list_environments", "vm_run"]


async def test_a_client_has_nothing_to_complain_of_when_its_session_ends(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.connect(handshake=True) as session:
        await session.tools()
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
