"""One-shot runs: outcomes, input, output, time."""

from __future__ import annotations

import time

import host
import pytest
from pyro_mcp import Pyro, RunOutcome


def run(pyro: Pyro, command: str, **options) -> RunOutcome:
    return pyro.run_in_vm(environment=host.ENVIRONMENT, command=command, **options)


def test_a_command_that_fails_is_an_outcome(pyro: Pyro):
    outcome = run(pyro, "echo out; echo err >&2; exit 42")
    assert (outcome["stdout"], outcome["stderr"], outcome["exit_code"]) == ("out\n", "err\n", 42)
    assert outcome["execution_mode"] == "guest"
    assert outcome["accelerator"] in {"kvm", "tcg"}


def test_at_a_time_out_all_output_is_kept(pyro: Pyro):
    started = time.monotonic()
    outcome = run(pyro, "echo before; sleep 1000", timeout_seconds=1)
    assert outcome["timed_out"]
    assert (outcome["exit_code"], outcome["stdout"]) == (124, "before\n")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "stdin", [bytes(range(256)) * 40, bytearray(b"\0\xff"), memoryview(b"\n"), "grüße", b"", None]
)
def test_input_arrives_byte_for_byte(pyro: Pyro, stdin):
    seen: list[bytes] = []
    outcome = run(pyro, "cat", stdin=stdin, on_stdout=seen.append)
    expected = stdin.encode() if isinstance(stdin, str) else bytes(stdin or b"")
    assert b"".join(seen) == expected
    assert outcome["stdout_bytes"] == len(expected)


def test_variables_and_directory_reach_the_command(pyro: Pyro):
    variables = {"GREETING": 'it\'s $HOME "x"\n', "EMPTY": ""}
    outcome = run(pyro, 'printf %s "$GREETING"; echo "[$EMPTY] $PWD"', env=variables, cwd="/tmp")
    assert outcome["stdout"] == 'it\'s $HOME "x"\n[] /tmp\n'


def test_output_comes_while_the_command_runs(pyro: Pyro):
    seen: list[tuple[str, bytes]] = []
    times: list[float] = []

    def on_stdout(data: bytes) -> None:
        seen.append(("out", data))
        times.append(time.monotonic())

    outcome = run(
        pyro,
        "echo one; sleep 1; echo two; echo three >&2",
        on_stdout=on_stdout,
        on_stderr=lambda data: seen.append(("err", data)),
    )
    assert b"".join(data for name, data in seen if name == "out") == b"one\ntwo\n"
    assert b"".join(data for name, data in seen if name == "err") == b"three\n"
    assert times[-1] - times[0] > 0.5
    assert outcome["stdout"] == "one\ntwo\n"


def test_what_a_callback_raises_ends_the_command(pyro: Pyro):
    class EnoughError(Exception):
        pass

    def on_stdout(data: bytes) -> None:
        raise EnoughError(data)

    started = time.monotonic()
    with pytest.raises(EnoughError, match="begin"):
        run(pyro, "echo begin; sleep 1000", timeout_seconds=900, on_stdout=on_stdout)
    assert time.monotonic() - started < 15


def test_a_flood_is_cut_in_the_outcome_and_whole_in_the_stream(pyro: Pyro):
    total = 3 * 1024 * 1024
    seen = 0

    def on_stdout(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    outcome = run(pyro, f"head -c {total} /dev/zero", on_stdout=on_stdout)
    assert seen == outcome["stdout_bytes"] == total
    assert outcome["stdout_truncated"]
    assert "bytes left out" in outcome["stdout"]


def test_nothing_runs_on_the_host_unless_it_is_allowed(pyro: Pyro):
    outcome = run(pyro, "uname -n; cat /proc/1/comm", allow_host_compat=True)
    assert outcome["execution_mode"] == "guest", "a VM can be had, so the command runs in one"


def test_a_stream_gives_pieces_and_an_outcome(pyro: Pyro):
    with pyro.stream_in_vm(environment=host.ENVIRONMENT, command="echo out; echo err >&2; exit 5") as stream:
        pieces = list(stream)
        outcome = stream.outcome()
    assert {(name, data) for name, data in pieces} == {("stdout", b"out\n"), ("stderr", b"err\n")}
    assert outcome["exit_code"] == 5
    assert outcome["cleanup"]["deleted"]
