"""Spares that a server keeps for the runs of its clients."""

from pathlib import Path
from typing import Any

from client import Session
from conftest import LEFTOVERS_SECONDS_MAX, Serve
from family import Process, Role
from host import BASE, Host
from vm import until


def sockets(host: Host) -> list[Path]:
    """Find where spares wait for their claim."""
    return list(host.state.glob("spares/*/[0-9a-f]*"))


async def run(session: Session, command: str) -> dict[str, Any]:
    return (await session.call("vm_run", environment=BASE, command=command)).success()


async def spare(session: Session, host: Host) -> list[Process]:
    """Have the server make a spare, and find its processes."""
    assert not sockets(host), "nobody has asked for a VM yet"
    assert (await run(session, "true"))["vm_start"] == "restored"
    await until(lambda: sockets(host), "a spare stands")
    return [host.family.the(role) for role in (Role.SUPERVISOR, Role.QEMU)]


async def test_the_next_run_claims_a_spare_which_is_replaced_until_the_server_ends(
    serve: Serve, host: Host
) -> None:
    server = serve("--spares", "1")
    async with server.connect() as session:
        first = await spare(session, host)
        claimed = await run(session, "echo $((6 * 7))")
        assert (claimed["vm_start"], claimed["stdout"]) == ("spare", "42\n")
        await until(lambda: sockets(host), "it is replaced")
        second = [host.family.the(role) for role in (Role.SUPERVISOR, Role.QEMU)]
        assert {process.pid for process in first}.isdisjoint(process.pid for process in second)
        # It is there for everybody of this user.
        printed = host.json("run", "--json", BASE, "--", "true")
        assert printed["vm_start"] == "spare"
        await until(lambda: sockets(host), "it is replaced, too")
    server.close()
    assert not sockets(host)
    assert not host.family.members(Role.SUPERVISOR)
    assert not host.family.members(Role.QEMU)


async def test_spares_end_with_a_server_that_is_killed(serve: Serve, host: Host) -> None:
    server = serve("--spares", "1")
    async with server.connect() as session:
        processes = await spare(session, host)
        host.family.the(Role.SERVER).kill()
        for process in processes:
            assert process.ends_within(LEFTOVERS_SECONDS_MAX), f"still there: {process}"
    assert not sockets(host)


async def test_a_server_that_was_not_asked_for_spares_keeps_none(
    session: Session, host: Host
) -> None:
    for _ in range(2):
        assert (await run(session, "true"))["vm_start"] == "restored"
    assert not host.family.members(Role.SUPERVISOR)
    assert not sockets(host)
