"""The server over standard streams, as it behaves towards whoever starts it."""

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterator

import pytest

from family import Role
from host import BASE, Host
from server import END_SECONDS_MAX, SERVER_MEMORY_MIB_MAX
from vm import until
from wire import Pipe, tool_call

LINE_BYTES_FAR_TOO_MANY = 32 * 1024 * 1024
REQUESTS_FAR_TOO_MANY = 100_000

CHUNK_BYTES = 64 * 1024

SILENCE_SECONDS = 2.0
"""After which a pipe that takes no bytes is held to be full for good."""


@pytest.fixture
def pipe(host: Host) -> Iterator[Pipe]:
    """Start a server."""
    pipe = Pipe(host)
    yield pipe
    pipe.close()


def test_standard_output_carries_the_protocol_and_nothing_else(pipe: Pipe) -> None:
    pipe.greet()
    run = tool_call(2, "vm_run", environment=BASE, command="echo out; echo err >&2")
    pipe.send(run)
    assert pipe.answer(2)["result"]["isError"] is False
    pipe.send(tool_call(3, "vm_run", environment="fedora:40", command="true"))
    assert pipe.answer(3)["result"]["isError"] is True
    assert pipe.end() == 0
    assert len(pipe.lines) == 3
    for line in pipe.lines:
        assert json.loads(line)["jsonrpc"] == "2.0"


@pytest.mark.parametrize(
    "garbage",
    [
        "garbage",
        "",
        "{",
        "[]",
        "{}",
        "null",
        '"text"',
        '{"jsonrpc":"2.0"}',
        '{"jsonrpc":"1.0","id":9,"method":"ping"}',
        '{"jsonrpc":"2.0","id":{},"method":"ping"}',
        '{"jsonrpc":"2.0","id":9,"method":"no/such/method"}',
        '{"jsonrpc":"2.0","id":9,"method":"tools/call","params":[]}',
        '{"jsonrpc":"2.0","id":9,"result":{}}',
        "\0\x1b\x7f",
        "[" * 5000,
        '{"a":' * 5000,
        "x" * LINE_BYTES_FAR_TOO_MANY,
    ],
    ids=lambda garbage: repr(garbage)[:60],
)
def test_a_line_that_makes_no_sense_does_not_end_the_server(
    pipe: Pipe, host: Host, garbage: str
) -> None:
    pipe.greet()
    pipe.send(garbage)
    pipe.send(tool_call(2, "vm_list_environments"))
    assert pipe.answer(2)["result"]["structuredContent"]["environments"]
    assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX
    assert pipe.end() == 0


def test_garbage_before_the_greeting_does_not_end_the_server(pipe: Pipe) -> None:
    pipe.send("garbage")
    pipe.greet()
    pipe.send(tool_call(2, "vm_list_environments"))
    assert pipe.answer(2)["result"]["isError"] is False
    assert pipe.end() == 0


def test_the_server_ends_well_when_nobody_ever_says_anything(pipe: Pipe) -> None:
    assert pipe.end() == 0
    assert pipe.lines == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_ends_the_server_and_what_its_calls_do(
    pipe: Pipe, host: Host, number: signal.Signals
) -> None:
    pipe.greet()
    pipe.send(tool_call(2, "vm_run", environment=BASE, command="sleep 600", timeout_seconds=600))
    await until(lambda: host.family.members(Role.QEMU), "the command runs")
    pipe.process.send_signal(number)
    assert pipe.process.wait(END_SECONDS_MAX) == 128 + number
    assert host.family.members() == []


async def test_the_end_of_input_ends_what_calls_do(pipe: Pipe, host: Host) -> None:
    pipe.greet()
    pipe.send(tool_call(2, "vm_run", environment=BASE, command="sleep 600", timeout_seconds=600))
    await until(lambda: host.family.members(Role.QEMU), "the command runs")
    assert pipe.end() == 0
    assert host.family.members() == []


@pytest.mark.parametrize("numbers", [1, 100, REQUESTS_FAR_TOO_MANY])
def test_a_client_that_never_reads_cannot_fill_the_server(
    pipe: Pipe, host: Host, numbers: int
) -> None:
    """Whether it counts its requests, or repeats their numbers."""
    pipe.greet()
    assert pipe.process.stdin is not None
    stdin = pipe.process.stdin.fileno()
    os.set_blocking(stdin, False)
    request = '{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n'
    requests = (request % (2 + number % numbers) for number in range(REQUESTS_FAR_TOO_MANY))
    left = "".join(requests).encode()
    # The server takes no more of them, or it has taken all.
    while left and select.select([], [stdin], [], SILENCE_SECONDS)[1]:
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(stdin, left[:CHUNK_BYTES]) :]
    assert host.family.the(Role.SERVER).peak_memory_mib() < SERVER_MEMORY_MIB_MAX
    pipe.process.terminate()
    assert pipe.process.wait(END_SECONDS_MAX) == 128 + signal.SIGTERM
