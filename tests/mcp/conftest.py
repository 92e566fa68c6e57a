"""Tests of `pyro mcp serve` with the clients that people use, against real VMs.

They run once per generation of the Python client. What does not depend on the client runs with the
newer one only: see `ONCE`.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from client import GENERATION, Session
from host import BASE, Host, environment_cache
from server import HttpServer, Server, StdioServer

GENERATION_ONCE = 2

ONCE = [
    "test_config.py",
    "test_conformance.py",
    "test_fastmcp.py",
    "test_http.py",
    "test_inspector.py",
    "test_load.py",
    "test_pins.py",
    "test_protocol.py",
    "test_stdio.py",
]
"""What speaks for itself or to another client, or is expensive."""

LEFTOVERS_SECONDS_MAX = 10.0
"""How long processes may take to be gone after the last server of a test has ended."""

collect_ignore = [] if GENERATION == GENERATION_ONCE else ONCE

Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio, as the users of these clients do."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _environment() -> None:
    """Build what is missing, environment and template, so that no test waits for it."""
    host = Host()
    try:
        host.json("run", "--json", BASE, "--", "true")
    finally:
        host.close()


@pytest.fixture
def cache() -> Path:
    """Keep environments and templates where all tests do, unless a test says otherwise."""
    return environment_cache()


@pytest.fixture
def host(cache: Path) -> Iterator[Host]:
    """Give directories of their own to all `pyro` of a test, and see that nothing is left there."""
    host = Host(cache)
    try:
        yield host
        check_leftovers(host)
    finally:
        sys.stderr.write(host.log.read_text())
        for process in host.family.members():
            process.kill()
        host.close()


def check_leftovers(host: Host) -> None:
    """Check that no VM, no process and no file of a test is left."""
    vms = host.vms()
    for vm_id in vms:
        host.delete(vm_id)
    is_over = host.family.is_over_within(LEFTOVERS_SECONDS_MAX)
    assert is_over, f"processes are left: {host.family.members()}"
    assert not vms, f"VMs are left: {vms}"
    assert not host.files(), f"files are left: {host.files()}"


@pytest.fixture(params=["stdio", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    """Run a test over both transports."""
    return str(request.param)


@pytest.fixture
def serve(host: Host, transport: str) -> Iterator[Serve]:
    """Give what starts a server with options of the test's choice."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        kind = StdioServer if transport == "stdio" else HttpServer
        server = kind(host, *options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(serve: Serve) -> Server:
    """Start a server as it is without options."""
    return serve()


@pytest.fixture
async def session(server: Server) -> AsyncIterator[Session]:
    """Connect a client to a server as it is without options."""
    async with server.connect() as session:
        yield session


def pytest_report_header() -> list[str]:
    """Say with what the tests run."""
    pyro = os.environ.get("PYRO", "target/debug/pyro")
    return [f"client: mcp {GENERATION}.x; server: {pyro}"]
