"""Ctrl-C, SIGTERM, SIGKILL: calls end at once, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import host
import pytest
from pyro_mcp import Pyro

HEAD = """
import asyncio, os, sys, threading
from pyro_mcp import AsyncPyro, Pyro
pyro = Pyro()
options = {"environment": "debian:12-base", "command": "echo ready; sleep 1000", "timeout_seconds": 900}
ready = lambda data: print("ready", flush=True)
"""

CALLS = {
    "a run": "pyro.run_in_vm(**options)",
    "a run with a callback": "pyro.run_in_vm(**options, on_stdout=lambda data: None)",
    "a stream": "list(pyro.stream_in_vm(**options))",
    "a command in a VM": """
with pyro.vm("debian:12-base") as vm:
    vm.exec(options["command"], timeout_seconds=900)
""",
    "a file": """
with pyro.vm("debian:12-base") as vm:
    vm.exec("mkfifo /tmp/fifo")
    vm.read_file("/tmp/fifo", timeout_seconds=900)
""",
    "a task": "asyncio.run(AsyncPyro().run_in_vm(**options))",
    "a thread that waits for others": """
threads = [threading.Thread(target=pyro.run_in_vm, kwargs=options, daemon=True) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
}


@contextmanager
def started(command: list[str], state: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[str]]:
    """A process that uses pyro, when it is where it should be."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYRO_STATE_DIR": str(state)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert host.settled(ready), process.stderr.read() if process.poll() is not None else "not ready"
        # Now it waits for the command.
        time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_at_once_with_control_c(pyro: Pyro, tmp_path, python, name: str):
    def runs() -> bool:
        return any("qemu" in holder for holder in host.holders(tmp_path))

    with started(python(HEAD + CALLS[name]), tmp_path, runs) as process:
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        took = time.monotonic() - before
    assert process.returncode == -signal.SIGINT, stderr
    assert "KeyboardInterrupt" in stderr
    assert took < 5, took
    assert host.settled(lambda: not host.holders(tmp_path)), host.holders(tmp_path)
    assert host.settled(lambda: not host.files(tmp_path)), host.files(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_process_that_is_killed(pyro: Pyro, tmp_path, python, number: signal.Signals):
    def runs() -> bool:
        return any("qemu" in holder for holder in host.holders(tmp_path))

    with started(python(HEAD + CALLS["a run"]), tmp_path, runs) as process:
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == -number
    assert host.settled(lambda: not host.holders(tmp_path)), host.holders(tmp_path)


def test_a_handler_that_does_not_raise_lets_the_call_go_on(pyro: Pyro):
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        outcome = pyro.run_in_vm(environment=host.ENVIRONMENT, command="sleep 1; echo done")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert outcome["stdout"] == "done\n"
    assert seen == [signal.SIGALRM]


def test_an_interpreter_can_end_right_after_its_last_call(pyro: Pyro, python):
    script = "asyncio.run(AsyncPyro().list_environments())"
    for _ in range(20):
        outcome = subprocess.run(python(HEAD + script), capture_output=True, text=True, check=False)
        assert (outcome.returncode, outcome.stderr) == (0, "")


def test_an_interpreter_can_end_while_calls_run(pyro: Pyro, tmp_path, python):
    script = """
call = pyro.engine.run_in_vm(
    {"environment": "debian:12-base", "vcpu_count": 1, "mem_mib": 1024, "ttl_seconds": 600,
     "network": False, "allow_host_compat": False},
    {"command": "sleep 1000", "timeout_seconds": 900, "env": {}, "cwd": None, "stdin": None},
)
call.begin(print)
stream = pyro.stream_in_vm(**options)
next(stream)
threading.Thread(target=pyro.run_in_vm, kwargs=options, daemon=True).start()
"""
    environment = {**os.environ, "PYRO_STATE_DIR": str(tmp_path)}
    outcome = subprocess.run(
        python(HEAD + script), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert host.settled(lambda: not host.holders(tmp_path)), host.holders(tmp_path)
