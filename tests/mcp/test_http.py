"""The server over HTTP: who may speak to it, and that speakers do not disturb each other."""

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from client import Session
from family import Role
from host import BASE, Host
from server import END_SECONDS_MAX, SERVER_MEMORY_MIB_MAX, HttpServer
from vm import started, until
from wire import post

CONVERSATIONS_MANY = 300
CONNECTIONS_MANY = 400
DESCRIPTORS_MAX = 320
IDLE_END_SECONDS_MAX = 5.0
BODY_BYTES_FAR_TOO_MANY = 64 * 1024 * 1024


@pytest.fixture
def server(host: Host) -> Iterator[HttpServer]:
    """Start a server as it is without options."""
    server = HttpServer(host)
    yield server
    server.close()


def test_a_request_with_the_token_is_answered(server: HttpServer) -> None:
    assert post(server).status == 200


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {}", "bearer{}", "{}"]
)
def test_a_request_without_the_token_is_refused(
    server: HttpServer, authorization: str | None
) -> None:
    header = authorization.format(server.token) if authorization is not None else None
    response = post(server, Authorization=header)
    assert response.status == 401
    assert (response.getheader("WWW-Authenticate") or "").startswith("Bearer")


def test_a_token_that_only_begins_rightly_is_refused(server: HttpServer) -> None:
    assert server.token
    for wrong in (server.token[:-1], server.token + "x", server.token[:-1] + "!"):
        assert post(server, Authorization=f"Bearer {wrong}").status == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_a_request_of_a_foreign_page_is_refused(server: HttpServer, origin: str) -> None:
    assert post(server, Origin=origin).status == 403


@pytest.mark.parametrize("name", ["evil.example", "evil.example:{}", "127.0.0.1.evil.example:{}"])
def test_a_request_for_a_foreign_host_is_refused(server: HttpServer, name: str) -> None:
    assert post(server, Host=name.format(server.port)).status == 403


def test_the_host_may_be_called_localhost(server: HttpServer) -> None:
    assert post(server, Host=f"localhost:{server.port}").status == 200


def test_what_the_operator_allows_is_answered(host: Host) -> None:
    page, name = "https://page.example", "pyro.example"
    server = HttpServer(host, "--allow-origin", page, "--allow-http-host", name)
    try:
        assert post(server, Origin=page, Host=name).status == 200
        assert post(server, Origin=f"{page}:8443").status == 403
        assert post(server, Host=f"not-{name}").status == 403
    finally:
        server.close()


def test_a_listed_page_can_ask_from_a_browser(host: Host) -> None:
    page = "https://page.example"
    server = HttpServer(host, "--allow-origin", page)
    asked = {
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "authorization,content-type,mcp-protocol-version",
    }
    try:
        response = post(server, b"", "OPTIONS", Origin=page, Authorization=None, **asked)
        assert response.status == 204
        assert response.getheader("Access-Control-Allow-Origin") == page
        allowed = (response.getheader("Access-Control-Allow-Headers") or "").split(", ")
        assert set(asked["Access_Control_Request_Headers"].split(",")) <= set(allowed)
        for token, status in ((server.token, 200), ("wrong", 401)):
            response = post(server, Origin=page, Authorization=f"Bearer {token}")
            assert response.status == status
            assert response.getheader("Access-Control-Allow-Origin") == page
        foreign = post(
            server, b"", "OPTIONS", Origin="https://evil.example", Authorization=None, **asked
        )
        assert foreign.status == 403
        assert foreign.getheader("Access-Control-Allow-Origin") is None
    finally:
        server.close()


def test_on_all_addresses_any_address_may_be_used_but_no_name(host: Host) -> None:
    server = HttpServer(host, "--host", "0.0.0.0")
    try:
        assert post(server, Host=f"192.0.2.7:{server.port}").status == 200
        assert post(server, Host=f"[2001:db8::7]:{server.port}").status == 200
        assert post(server, Host=f"evil.example:{server.port}").status == 403
        assert server.url.startswith("http://127.0.0.1:")
    finally:
        server.close()


def test_a_body_that_is_far_too_long_is_refused(server: HttpServer, host: Host) -> None:
    response = post(server, b" " * BODY_BYTES_FAR_TOO_MANY)
    assert 400 <= response.status < 500
    assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX


@pytest.mark.parametrize("body", [b"", b"garbage", b"[]", b"{}", b"\xff\xfe"])
def test_a_body_that_makes_no_sense_is_refused_and_the_server_goes_on(
    server: HttpServer, body: bytes
) -> None:
    assert 400 <= post(server, body).status < 500
    assert post(server).status == 200


async def test_the_token_can_come_from_a_file(host: Host, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("  a-token-of-our-own\n")
    token.chmod(0o600)
    server = HttpServer(host, "--token-file", str(token))
    try:
        server.token = "a-token-of-our-own"
        async with server.connect() as session:
            assert await session.tools()
    finally:
        server.close()
    assert server.token not in host.log.read_text()


@pytest.mark.parametrize(("content", "mode"), [("", 0o600), (" \n", 0o600), ("token", 0o644)])
def test_a_token_file_that_protects_nothing_is_refused(
    host: Host, tmp_path: Path, content: str, mode: int
) -> None:
    token = tmp_path / "token"
    token.write_text(content)
    token.chmod(mode)
    outcome = subprocess.run(
        host.serve("--transport", "http", "--port", "0", "--token-file", str(token)),
        env=host.variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=END_SECONDS_MAX,
        check=False,
    )
    assert outcome.returncode not in (0, 101)
    assert str(token) in outcome.stderr


def test_a_fresh_token_is_long_and_never_the_same(host: Host) -> None:
    tokens = set()
    for _ in range(2):
        server = HttpServer(host)
        tokens.add(server.token)
        server.close()
    assert len(tokens) == 2
    assert all(token and len(token) >= 32 for token in tokens)


async def test_two_sessions_do_not_disturb_each_other(server: HttpServer, host: Host) -> None:
    async def forever(session: Session) -> None:
        await session.call("vm_run", environment=BASE, command="sleep 600", timeout_seconds=600)

    async with server.connect() as one, started(one) as vm_id:
        async with server.connect() as other, anyio.create_task_group() as tasks:
            tasks.start_soon(forever, other)
            await until(lambda: len(host.family.members(Role.QEMU)) == 2, "both run")
            outcome = (await one.call("vm_exec", vm_id=vm_id, command="echo one")).success()
            assert outcome["stdout"] == "one\n"
            seen = (await other.call("vm_status", vm_id=vm_id)).success()
            assert seen["state"] == "started"
            tasks.cancel_scope.cancel()
        outcome = (await one.call("vm_exec", vm_id=vm_id, command="echo two")).success()
        assert outcome["stdout"] == "two\n"
        await until(lambda: len(host.family.members(Role.QEMU)) == 1, "what nobody awaits ended")


async def test_a_call_goes_on_while_many_others_come(server: HttpServer, host: Host) -> None:
    outcomes: list[str] = []

    async def call(session: Session) -> None:
        result = await session.call("vm_run", environment=BASE, command="sleep 5; echo done")
        outcomes.append(result.success()["stdout"])

    async with server.connect(handshake=True) as session, anyio.create_task_group() as tasks:
        tasks.start_soon(call, session)
        await until(lambda: host.family.members(Role.QEMU), "the command runs")
        for _ in range(CONVERSATIONS_MANY):
            assert (await anyio.to_thread.run_sync(post, server)).status == 200
    assert outcomes == ["done\n"]


def test_silent_connections_do_not_keep_the_server_from_ending(server: HttpServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            address = ("127.0.0.1", server.port)
            stack.enter_context(socket.create_connection(address))
        assert post(server).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(IDLE_END_SECONDS_MAX) == 128 + signal.SIGTERM


async def test_a_signal_ends_the_server_and_what_its_calls_do(
    server: HttpServer, host: Host
) -> None:
    ended: list[object] = []

    async def forever(session: Session) -> None:
        try:
            await session.call("vm_run", environment=BASE, command="sleep 600", timeout_seconds=600)
        except Exception as error:  # each client says in its own way that the server is gone
            ended.append(error)

    async with server.connect() as session, anyio.create_task_group() as tasks:
        tasks.start_soon(forever, session)
        await until(lambda: host.family.members(Role.QEMU), "the command runs")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(END_SECONDS_MAX) == 128 + signal.SIGTERM
        assert host.family.members() == []
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        tasks.cancel_scope.cancel()


def test_many_conversations_and_silent_connections_do_not_fill_the_server(
    server: HttpServer, host: Host
) -> None:
    for _ in range(CONVERSATIONS_MANY):
        assert post(server).status == 200
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS_MANY):
            address = ("127.0.0.1", server.port)
            connection = stack.enter_context(socket.create_connection(address))
            if number % 2:
                connection.sendall(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        assert len(list(descriptors.iterdir())) < DESCRIPTORS_MAX
        assert post(server).status == 200
        assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX
