"""`vm_logs`: everything that an earlier command of a VM wrote, piece by piece."""

from typing import Any

import anyio
import pytest

from client import Session
from host import BASE, Host
from server import Server
from vm import started

LINES = 100_000
OUTPUT = "".join(f"{number}\n" for number in range(LINES, 2 * LINES))


async def execute(session: Session, vm_id: str, command: str) -> dict[str, Any]:
    return (await session.call("vm_exec", vm_id=vm_id, command=command)).success()


async def test_what_an_answer_left_out_is_read_piece_by_piece(session: Session) -> None:
    async with started(session) as vm_id:
        command = f"seq {LINES} {2 * LINES - 1}; echo problem >&2"
        answer = await session.call("vm_exec", vm_id=vm_id, command=command)
        outcome = answer.success()
        assert outcome["stdout_truncated"]
        assert "vm_logs" in answer.text
        assert str(outcome["run_id"]) in answer.text.rpartition("vm_logs")[2]
        run = {"vm_id": vm_id, "run_id": outcome["run_id"]}
        text = ""
        offset: int | None = 0
        while offset is not None:
            part = await session.call("vm_logs", **run, offset=offset, bytes_max=100_000)
            assert part.success()["offset"] == offset
            text += part.success()["text"]
            offset = part.success()["next_offset"]
        assert text == OUTPUT
        errors = (await session.call("vm_logs", **run, stream="stderr")).success()
        assert (errors["text"], errors["state"]) == ("problem\n", "ended")


async def test_a_part_is_small_unless_a_call_says_otherwise(session: Session) -> None:
    async with started(session) as vm_id:
        run_id = (await execute(session, vm_id, f"seq {LINES}"))["run_id"]
        part = (await session.call("vm_logs", vm_id=vm_id, run_id=run_id)).success()
        assert (len(part["text"]), part["stream"], part["offset"]) == (16384, "stdout", 0)


async def test_what_a_cancelled_command_wrote_is_there_after_a_reconnect(
    server: Server, host: Host
) -> None:
    async with server.connect() as session:
        made = host.json("vm", "create", "--start", "--json", BASE)
        vm_id = made["vm_id"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, session, vm_id, "echo before; touch /tmp/on; sleep 25")
            waiting = await execute(session, vm_id, "until test -e /tmp/on; do sleep 0.1; done")
            tasks.cancel_scope.cancel()
    async with server.connect() as session:
        other = 3 - waiting["run_id"]
        # Whoever was cut off has no result that names it.
        listed = (await session.call("vm_logs", vm_id=vm_id)).success()["runs"]
        assert [run["run_id"] for run in listed] == [1, 2]
        assert {run["exit_code"] for run in listed} == {0, 137}
        part = (await session.call("vm_logs", vm_id=vm_id, run_id=other)).success()
        assert part["text"] == "before\n"
        (await session.call("vm_delete", vm_id=vm_id)).success()


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_part_that_cannot_be_is_refused(session: Session) -> None:
    async with started(session) as vm_id:
        await execute(session, vm_id, "true")
        wrongs: list[tuple[dict[str, Any], str]] = [
            ({"run_id": 2}, "2"),
            ({"run_id": 0}, "run_id"),
            ({"run_id": "one"}, "run_id"),
            ({"run_id": 1, "offset": -1}, "offset"),
            ({"run_id": 1, "bytes_max": 2**17 + 1}, "bytes_max"),
            ({"run_id": 1, "stream": "stdin"}, "stream"),
        ]
        for wrong, word in wrongs:
            error = (await session.call("vm_logs", vm_id=vm_id, **wrong)).error()
            assert error["code"] == "invalid_input", wrong
            assert word in error["message"]
