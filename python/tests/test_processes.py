"""Threads and processes that share a `Pyro`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import host
import pytest
from pyro_mcp import AsyncPyro, Pyro


def stdout(pyro: Pyro, number: int) -> str:
    command = f"echo {number}"
    return pyro.run_in_vm(environment=host.ENVIRONMENT, command=command, timeout_seconds=100)["stdout"]


def test_threads_share_one(pyro: Pyro):
    with ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(lambda number: stdout(pyro, number), range(8)))
    assert outputs == [f"{number}\n" for number in range(8)]


def test_other_threads_go_on_while_one_waits(pyro: Pyro):
    waiting = threading.Thread(
        target=pyro.run_in_vm, kwargs={"environment": host.ENVIRONMENT, "command": "sleep 1"}
    )
    waiting.start()
    longest = 0.0
    last = time.monotonic()
    while waiting.is_alive():
        time.sleep(0.001)
        longest = max(longest, time.monotonic() - last)
        last = time.monotonic()
    waiting.join()
    assert longest < 0.5, "the interpreter's lock was held"


def test_a_forked_child_can_use_what_its_parent_used(pyro: Pyro):
    stdout(pyro, 0)
    stream = pyro.stream_in_vm(environment=host.ENVIRONMENT, command="echo parent; sleep 2; echo end")
    assert next(stream).data == b"parent\n"
    with warnings.catch_warnings():
        # Newer Pythons warn of every fork of a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            works = stdout(pyro, 1) == "1\n"
        except BaseException:
            works = False
        # What the parent has is not the child's to end.
        del stream, pyro
        os._exit(0 if works else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with stream:
        assert b"".join(piece.data for piece in stream) == b"end\n"
        assert stream.outcome()["exit_code"] == 0
    assert stdout(pyro, 2) == "2\n"


def test_a_forked_child_is_told_what_is_its_parents(pyro: Pyro):
    stream = pyro.stream_in_vm(environment=host.ENVIRONMENT, command="echo parent; read line; echo end")
    call, begun = pyro.engine.list_vms(), pyro.engine.list_vms()
    begun.begin(lambda value, error: None)
    theirs = "belongs to the process that started it"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        # Nothing of it may wait for ever.
        signal.alarm(host.DEADLINE_SECONDS)
        works = 1
        try:
            for use in (lambda: next(stream), stream.outcome, call.wait, lambda: call.begin(print)):
                with pytest.raises(RuntimeError, match=theirs):
                    use()
            stream.close()
            begun.cancel()
            del stream, call, begun
            works = 0
        finally:
            os._exit(works)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with stream:
        assert b"".join(piece.data for piece in stream) == b"parent\nend\n"
    assert call.wait() == []


def test_a_pool_of_spawned_processes_can_be_given_one(pyro: Pyro):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        outputs = list(processes.map(stdout, [pyro, pyro], range(2)))
    assert outputs == ["0\n", "1\n"]
    assert host.settled(lambda: len(host.children()) <= 1)
    _end_resource_tracker()


def test_a_pool_of_forked_processes_can_be_given_one(pyro: Pyro):
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(2, mp_context=context) as processes:
            outputs = list(processes.map(stdout, [pyro, pyro], range(2)))
    assert outputs == ["0\n", "1\n"]


def test_a_copy_has_the_same_settings(tmp_path):
    pyro = Pyro(base_dir=tmp_path, max_active_vms=9)
    for one in (pyro, AsyncPyro(base_dir=tmp_path, max_active_vms=9)):
        copy = pickle.loads(pickle.dumps(one))
        assert (copy.base_dir, copy.max_active_vms) == (tmp_path, 9)


def _end_resource_tracker() -> None:
    """Ends the process with which `multiprocessing` cleans up after spawned ones."""
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
