"""`vm_run`: one command in a VM of its own."""

import hashlib
from typing import Any

import pytest

from client import Session, Step
from host import BASE, Host

MARKER = "bytes left out"

MUCH_INPUT = "".join(f"{number}\n" for number in range(150_000))


async def run(session: Session, command: str, **arguments: Any) -> dict[str, Any]:
    answer = await session.call("vm_run", environment=BASE, command=command, **arguments)
    return answer.success()


async def test_a_run_answers_with_the_object_of_the_command_line_and_text(
    session: Session, host: Host
) -> None:
    answer = await session.call("vm_run", environment=BASE, command="echo hello")
    told = answer.success()
    printed = host.json("run", "--json", BASE, "--", "echo", "hello")
    assert answer.text.startswith("hello\n")
    assert told.keys() == printed.keys()
    assert told["cleanup"] == {"vm_id": told["vm_id"], "deleted": True, "reason": "run_complete"}
    differs = {"vm_id", "duration_ms", "cleanup"}
    assert {key: told[key] for key in told.keys() - differs} == {
        key: printed[key] for key in printed.keys() - differs
    }


async def test_the_text_of_a_plain_success_is_its_output_and_nothing_else(session: Session) -> None:
    answer = await session.call("vm_run", environment=BASE, command="printf 'one\\ntwo\\n'")
    assert answer.text.rstrip("\n") == "one\ntwo"


async def test_a_failing_command_is_an_outcome_and_no_error(session: Session) -> None:
    answer = await session.call(
        "vm_run", environment=BASE, command="echo out; echo problem >&2; exit 3"
    )
    outcome = answer.success()
    assert (outcome["exit_code"], outcome["stdout"], outcome["stderr"]) == (3, "out\n", "problem\n")
    assert answer.text.startswith("out\n")
    assert answer.text.index("problem") < answer.text.index("exit code 3")


async def test_a_timeout_keeps_the_output_up_to_then(session: Session) -> None:
    answer = await session.call(
        "vm_run", environment=BASE, command="echo before; sleep 600; echo after", timeout_seconds=1
    )
    outcome = answer.success()
    assert (outcome["exit_code"], outcome["timed_out"]) == (124, True)
    assert outcome["stdout"] == "before\n"
    assert "timed out" in answer.text


async def test_environment_directory_and_input_reach_the_command(session: Session) -> None:
    outcome = await run(
        session,
        'pwd; printf "%s|%s\\n" "$GREETING" "$EMPTY"; cat',
        env={"GREETING": "it's a $HOME of its own", "EMPTY": ""},
        cwd="/usr/share",
        stdin="line 1\nline 2, ünïcode",
    )
    assert outcome["stdout"] == "/usr/share\nit's a $HOME of its own|\nline 1\nline 2, ünïcode"


async def test_a_command_without_input_reads_the_end_of_it(session: Session) -> None:
    assert (await run(session, "cat; echo done"))["stdout"] == "done\n"


@pytest.mark.parametrize("output_bytes_max", [0, 10, 1000])
async def test_each_stream_is_cut_to_its_limit_and_the_text_says_how_to_get_the_rest(
    session: Session, output_bytes_max: int
) -> None:
    answer = await session.call(
        "vm_run",
        environment=BASE,
        command="seq 100000 199999; seq 5 >&2",
        output_bytes_max=output_bytes_max,
    )
    outcome = answer.success()
    assert outcome["stdout_truncated"]
    assert outcome["stdout_bytes"] == 700_000
    head, marker, tail = outcome["stdout"].partition(f"\n[... {700_000 - output_bytes_max} ")
    assert marker
    assert MARKER in tail
    kept = head + tail.partition("]\n")[2]
    assert len(kept) == output_bytes_max
    assert "output_bytes_max" in answer.text
    assert outcome["stderr_bytes"] == 10
    assert outcome["stderr_truncated"] == (output_bytes_max < 10)


async def test_bytes_that_are_no_text_do_not_break_the_answer(session: Session) -> None:
    outcome = await run(session, r"printf 'a\377\000\033[31mb'")
    assert outcome["stdout"] == "a\ufffd\0\033[31mb"
    assert outcome["stdout_bytes"] == 9


async def test_the_shape_of_the_machine_is_what_was_asked_for(session: Session) -> None:
    outcome = await run(
        session, "nproc; grep MemTotal /proc/meminfo", vcpu_count=2, mem_mib=512, ttl_seconds=60
    )
    cpus, memory = outcome["stdout"].splitlines()
    assert cpus == "2"
    assert 400 * 1024 < int(memory.split()[1]) <= 512 * 1024


async def test_environments_are_listed_like_on_the_command_line(
    session: Session, host: Host
) -> None:
    told = (await session.call("vm_list_environments")).success()
    assert told == host.json("env", "list", "--json")


@pytest.mark.parametrize("asks_for_progress", [False, True], ids=["silent", "progress"])
async def test_the_largest_answer_that_a_call_can_ask_for_arrives(
    session: Session, asks_for_progress: bool
) -> None:
    tool = next(tool for tool in await session.tools() if tool.name == "vm_run")
    largest = tool.input_schema["properties"]["output_bytes_max"]["maximum"]
    steps: list[Step] = []
    outcome = await run(
        session,
        "seq 100000 399999; seq 100000 399999 >&2",
        on_step=steps.append if asks_for_progress else None,
        output_bytes_max=largest,
        timeout_seconds=60,
    )
    for stream in ("stdout", "stderr"):
        assert outcome[stream].endswith("399999\n")
        assert len(outcome[stream]) >= largest


async def test_much_input_arrives_whole(session: Session) -> None:
    outcome = await run(session, "sha256sum", stdin=MUCH_INPUT, timeout_seconds=60)
    assert outcome["stdout"].split()[0] == hashlib.sha256(MUCH_INPUT.encode()).hexdigest()
