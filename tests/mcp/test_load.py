"""Many calls, long calls, and much output: everybody is answered, and the server stays small."""

from collections import Counter

import anyio
import pytest

from client import Answer, Session
from conftest import Serve
from family import Role
from host import BASE, Host
from server import SERVER_MEMORY_MIB_MAX
from vm import created, until

FLOOD_BYTES = 100_000_000
OUTPUT_BYTES_MAX = 16384
MARKER_BYTES_MAX = 64

CALLS_MANY = 50
CALLS_TOO_MANY = 80

ACTIVE_DEFAULT = 4
WAITING_MAX = 64


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_output_is_capped_whatever_a_command_prints_and_the_server_stays_small(
    session: Session, host: Host
) -> None:
    answer = await session.call(
        "vm_run",
        environment=BASE,
        command=f"yes 0123456789 | head -c {FLOOD_BYTES}",
        timeout_seconds=120,
    )
    outcome = answer.success()
    assert (outcome["exit_code"], outcome["stdout_bytes"]) == (0, FLOOD_BYTES)
    assert outcome["stdout_truncated"]
    assert f"[... {FLOOD_BYTES - OUTPUT_BYTES_MAX} bytes left out ...]" in outcome["stdout"]
    assert len(outcome["stdout"]) <= OUTPUT_BYTES_MAX + MARKER_BYTES_MAX
    assert outcome["stdout"].startswith("0123456789\n")
    assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_an_endless_flood_is_ended_by_its_timeout(session: Session, host: Host) -> None:
    answer = await session.call("vm_run", environment=BASE, command="yes", timeout_seconds=2)
    outcome = answer.success()
    assert (outcome["timed_out"], outcome["exit_code"]) == (True, 124)
    assert len(outcome["stdout"]) <= OUTPUT_BYTES_MAX + MARKER_BYTES_MAX
    assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX


async def test_other_calls_are_answered_while_a_command_does_not_end(session: Session) -> None:
    answers: list[Answer] = []

    async def endless() -> None:
        answers.append(
            await session.call("vm_run", environment=BASE, command="sleep 600", timeout_seconds=6)
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(endless)
        (await session.call("vm_list_environments")).success()
        outcome = (await session.call("vm_run", environment=BASE, command="echo hi")).success()
        assert outcome["stdout"] == "hi\n"
        assert not answers, "the endless one has not ended"
    assert answers[0].success()["timed_out"]


@pytest.mark.parametrize("transport", ["http"], indirect=True)
async def test_fifty_runs_at_once_are_all_answered(session: Session, host: Host) -> None:
    answers = await run_at_once(session, CALLS_MANY)
    assert [answers[number].success()["stdout"] for number in range(CALLS_MANY)] == [
        f"{number}\n" for number in range(CALLS_MANY)
    ]
    assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_of_more_runs_than_may_wait_the_rest_is_refused(session: Session) -> None:
    answers = await run_at_once(session, CALLS_TOO_MANY)
    codes = Counter(
        answer.error()["code"] if answer.is_error else "answered" for answer in answers.values()
    )
    assert codes.keys() == {"answered", "too_many_vms"}
    # More, if some had ended when the last ones came.
    assert codes["answered"] >= ACTIVE_DEFAULT + WAITING_MAX


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_runs_take_turns_in_the_order_in_which_they_came(serve: Serve) -> None:
    async with serve("--max-active-vms", "1").connect() as session:
        answers = await run_at_once(session, 6)
    assert list(answers) == sorted(answers)


async def test_other_tools_do_not_wait_behind_runs(serve: Serve, host: Host) -> None:
    async with (
        serve("--max-active-vms", "1").connect() as session,
        created(session) as vm_id,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):
            tasks.start_soon(run_forever, session)
        await until(lambda: host.family.members(Role.QEMU), "one runs, one waits")
        (await session.call("vm_start", vm_id=vm_id)).success()
        outcome = (await session.call("vm_exec", vm_id=vm_id, command="echo hi")).success()
        assert outcome["stdout"] == "hi\n"
        tasks.cancel_scope.cancel()


async def run_forever(session: Session) -> None:
    await session.call("vm_run", environment=BASE, command="sleep 600", timeout_seconds=600)


async def run_at_once(session: Session, count: int) -> dict[int, Answer]:
    """Run `count` commands, sent in order; the answers are in the order in which they came."""
    answers: dict[int, Answer] = {}

    async def run(number: int) -> None:
        answers[number] = await session.call(
            "vm_run", environment=BASE, command=f"echo {number}", timeout_seconds=60
        )

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(run, number)
    return answers
