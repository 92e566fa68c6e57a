"""Whoever stops waiting for a call ends what it does, in the guest and on the host."""

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from client import Session, Step
from conftest import Serve
from family import Role
from host import BASE, Host
from server import HttpServer, StdioServer
from vm import started, until

GONE_SECONDS_MAX = 10.0
"""How long what nobody waits for any more may go on."""

FOREVER = 3600

IS_SLEEPING = "grep -qsx Name:.sleep /proc/[0-9]*/status"


async def is_gone(host: Host, role: Role) -> bool:
    """Wait until nobody plays a role any more. The client goes on meanwhile."""
    for process in host.family.members(role):
        if not await anyio.to_thread.run_sync(process.ends_within, GONE_SECONDS_MAX):
            return False
    return True


async def test_cancelling_a_run_ends_its_vm(session: Session, host: Host) -> None:
    async with anyio.create_task_group() as tasks:
        is_running = anyio.Event()
        tasks.start_soon(call_forever, session, "running", is_running)
        await is_running.wait()
        assert host.family.members(Role.QEMU)
        tasks.cancel_scope.cancel()
    assert await is_gone(host, Role.QEMU)
    assert await is_gone(host, Role.SUPERVISOR)
    outcome = await session.call("vm_run", environment=BASE, command="echo next")
    assert outcome.success()["stdout"] == "next\n"


async def test_cancelling_a_run_in_the_middle_of_its_start_leaves_nothing(
    session: Session, host: Host
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_forever, session)
        await until(lambda: host.family.members(Role.SUPERVISOR), "a VM starts")
        tasks.cancel_scope.cancel()
    assert await is_gone(host, Role.SUPERVISOR)
    assert await is_gone(host, Role.QEMU)


async def test_cancelling_an_exec_ends_the_command_and_keeps_the_vm(session: Session) -> None:
    async with started(session) as vm_id:

        async def shell(command: str) -> int:
            answer = await session.call("vm_exec", vm_id=vm_id, command=command)
            return int(answer.success()["exit_code"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shell, "echo $$ > /tmp/new; mv /tmp/new /tmp/pid; sleep 25 & wait")
            assert await shell("until test -e /tmp/pid; do sleep 0.1; done") == 0
            assert await shell("kill -0 $(cat /tmp/pid)") == 0
            assert await shell(IS_SLEEPING) == 0
            tasks.cancel_scope.cancel()
        assert await shell("while kill -0 $(cat /tmp/pid); do sleep 0.1; done 2>/dev/null") == 0
        assert await shell(f"! {IS_SLEEPING}") == 0


async def test_a_run_that_is_cancelled_while_it_waits_never_starts(
    serve: Serve, host: Host
) -> None:
    async with serve("--max-active-vms", "1").connect() as session:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_forever, session)
            await until(lambda: host.family.members(Role.QEMU), "the first run has its turn")
            async with anyio.create_task_group() as waiting:
                is_waiting = anyio.Event()
                waiting.start_soon(call_forever, session, "waiting", is_waiting)
                await is_waiting.wait()
                waiting.cancel_scope.cancel()
            # Whoever lost its turn is passed over.
            tasks.cancel_scope.cancel()
        outcome = await session.call("vm_run", environment=BASE, command="echo next")
        assert outcome.success()["stdout"] == "next\n"
        assert await is_gone(host, Role.QEMU)


async def call_forever(
    session: Session, word: str = "", is_told: anyio.Event | None = None
) -> None:
    """Call a command that never ends; sets `is_told` once a step with `word` is told of."""

    def on_step(step: Step) -> None:
        if is_told is not None and word in (step.message or ""):
            is_told.set()

    await session.call(
        "vm_run",
        on_step=on_step,
        environment=BASE,
        command=f"sleep {FOREVER}",
        timeout_seconds=FOREVER,
        ttl_seconds=FOREVER,
    )
    pytest.fail("it ended by itself")


async def test_a_client_that_is_killed_in_the_middle_of_a_call_takes_its_server_along(
    host: Host, tmp_path: Path
) -> None:
    await kill_in_the_middle_of_a_call(host, tmp_path, StdioServer(host).command())
    for role in (Role.SERVER, Role.SUPERVISOR, Role.QEMU):
        assert await is_gone(host, role), role


async def test_a_client_that_is_killed_in_the_middle_of_a_call_leaves_others_their_server(
    host: Host, tmp_path: Path
) -> None:
    server = HttpServer(host)
    try:
        assert server.token is not None
        await kill_in_the_middle_of_a_call(host, tmp_path, ["--url", server.url, server.token])
        for role in (Role.SUPERVISOR, Role.QEMU):
            assert await is_gone(host, role), role
        async with server.connect() as session:
            outcome = await session.call("vm_run", environment=BASE, command="echo next")
            assert outcome.success()["stdout"] == "next\n"
    finally:
        server.close()


async def kill_in_the_middle_of_a_call(host: Host, logs: Path, arguments: list[str]) -> None:
    script = Path(__file__).with_name("forever.py")
    with (logs / "log").open("w") as log:
        client = subprocess.Popen(
            [sys.executable, str(script), *arguments], env=host.variables, stderr=log
        )
        try:
            await until(lambda: host.family.members(Role.QEMU), "the command runs")
        finally:
            client.kill()
            client.wait()


async def test_a_server_that_is_killed_in_the_middle_of_a_call_leaves_nothing(
    host: Host,
) -> None:
    server = subprocess.Popen(
        host.serve(), env=host.variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert server.stdin is not None
    try:
        server.stdin.write(Path(__file__).with_name("forever.jsonl").read_bytes())
        server.stdin.flush()
        await until(lambda: host.family.members(Role.QEMU), "the command runs")
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
    assert await is_gone(host, Role.SUPERVISOR)
    assert await is_gone(host, Role.QEMU)
