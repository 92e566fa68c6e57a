"""VMs with a life of their own: `with`, files, logs, streams."""

from __future__ import annotations

import os
import time
from pathlib import PurePosixPath

import host
import pytest
from pyro_mcp import (
    VM,
    CallInterruptedError,
    CommandFailedError,
    DeadlineReachedError,
    InvalidInputError,
    Pyro,
    PyroError,
    UnknownVMError,
    WrongVMStateError,
)


def sleepers(vm: VM) -> int:
    """How many `sleep` processes there are in the guest."""
    listed = vm.exec("cat /proc/[0-9]*/comm 2> /dev/null | grep -cx sleep || true")
    return int(listed["stdout"])


def test_commands_share_a_vm_for_a_block(pyro: Pyro):
    with pyro.vm(host.ENVIRONMENT, mem_mib=1024, metadata={"a": "b"}) as vm:
        assert vm.status()["state"] == "started"
        assert vm.status()["metadata"] == {"a": "b"}
        vm.exec("echo kept > file")
        assert vm.exec("cat file")["stdout"] == "kept\n"
        vm_id = vm.vm_id
        assert repr(vm) == f"VM({vm_id})"
    with pytest.raises(UnknownVMError):
        pyro.status_vm(vm_id)
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        vm.exec("true")


def test_a_vm_is_deleted_whatever_happens_in_its_block(pyro: Pyro):
    seen: list[str] = []

    def fail() -> None:
        with pyro.vm(host.ENVIRONMENT) as vm:
            seen.append(vm.vm_id)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(UnknownVMError):
        pyro.status_vm(seen[0])


def test_a_vm_that_somebody_else_deleted_is_gone_as_it_should_be(pyro: Pyro):
    with pyro.vm(host.ENVIRONMENT) as vm:
        assert host.cli("vm", "delete", vm.vm_id).returncode == 0


def test_files_survive_a_stop(vm: VM):
    vm.write_file("/root/file", "kept")
    assert vm.stop()["state"] == "stopped"
    assert vm.start()["state"] == "started"
    assert vm.read_file("/root/file") == b"kept"


def test_one_can_attach_to_a_vm(pyro: Pyro, vm: VM):
    with pyro.attach(vm.vm_id) as same:
        assert same.exec("echo hi")["stdout"] == "hi\n"
    assert vm.status()["state"] == "started", "only who made it deletes it"
    assert vm.network_info()["network_enabled"] is False


@pytest.mark.parametrize(
    "path", ["/root/plain", "/root/new/directory/file", '/tmp/it\'s "$HOME" `x`\n*', "/-x", "/tmp/ümlaut"]
)
def test_files_are_written_and_read_byte_for_byte(vm: VM, path: str):
    content = bytes(range(256)) * 300 + b"\r\n\0"
    vm.write_file(path, content)
    assert vm.read_file(path) == content
    vm.write_file(path, "äöü")
    assert vm.read_file(path) == "äöü".encode()
    vm.write_file(path, b"")
    assert vm.read_file(path) == b""


def test_a_big_file_is_no_problem_and_one_that_is_too_big_is_told(vm: VM):
    content = os.urandom(1 << 20) * 5
    vm.write_file("/tmp/big", content)
    assert vm.read_file("/tmp/big") == content
    assert vm.read_file("/tmp/big", bytes_max=len(content)) == content
    with pytest.raises(InvalidInputError, match=f"is larger than {len(content) - 1} bytes"):
        vm.read_file("/tmp/big", bytes_max=len(content) - 1)


@pytest.mark.parametrize("path", ["relative", "", "/", "/tmp/", "/a\0b"])
def test_a_path_that_can_be_no_file_is_refused(vm: VM, path: str):
    with pytest.raises(InvalidInputError, match="path must be absolute"):
        vm.read_file(path)
    with pytest.raises(InvalidInputError, match="path must be absolute"):
        vm.write_file(path, b"")


def test_what_keeps_a_file_from_being_read_or_written_is_told(vm: VM):
    with pytest.raises(InvalidInputError, match=r"cannot read `/nowhere` .*No such file"):
        vm.read_file("/nowhere")
    with pytest.raises(InvalidInputError, match=r"cannot write `/dev/null/x`"):
        vm.write_file("/dev/null/x", b"x")
    vm.exec("mkfifo /tmp/fifo")
    with pytest.raises(DeadlineReachedError, match=r"its time of 0.5 seconds was over"):
        vm.read_file("/tmp/fifo", timeout_seconds=0.5)


def test_output_is_checked_and_given_as_bytes(vm: VM):
    assert vm.check_output("printf '\\377\\0'") == b"\xff\0"
    with pytest.raises(CommandFailedError, match="command failed with exit code 3: why") as caught:
        vm.check_output("printf '\\377'; echo why >&2; exit 3")
    assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (3, b"\xff", b"why\n")


def test_output_that_is_too_much_ends_its_command(vm: VM):
    assert vm.check_output("printf 12345", bytes_max=5) == b"12345"
    with pytest.raises(InvalidInputError, match="the command writes more than 4 bytes") as caught:
        vm.check_output("printf 12345; sleep 1000", bytes_max=4, timeout_seconds=900)
    assert caught.value.hints
    assert host.settled(lambda: sleepers(vm) == 0)
    for bytes_max in (0, -1):
        with pytest.raises(InvalidInputError, match="bytes_max must be positive"):
            vm.check_output("true", bytes_max=bytes_max)
    with pytest.raises(TypeError, match="bytes_max must be int, not bool"):
        vm.check_output("true", bytes_max=True)


def test_of_the_errors_of_a_command_the_end_is_kept(vm: VM):
    with pytest.raises(CommandFailedError, match="exit code 3: why") as caught:
        vm.check_output("yes | head -c 1000000 >&2; echo why >&2; exit 3")
    assert len(caught.value.stderr) == 64 * 1024
    assert caught.value.stderr.endswith(b"y\nwhy\n")


def test_paths_and_bytes_come_in_all_their_types(vm: VM):
    path = PurePosixPath("/srv/file")
    for data in ("abc", b"abc", bytearray(b"abc"), memoryview(b"xabc")[1:]):
        vm.write_file(path, data)
        assert vm.read_file(path) == b"abc"
        assert vm.exec("cat - file", cwd=path.parent, stdin=data)["stdout"] == "abcabc"


def test_what_commands_wrote_is_kept(vm: VM):
    outcome = vm.exec("printf 'a\\377\\n'; echo err >&2")
    log = vm.logs(outcome["run_id"])
    assert (log["stdout"], log["stderr"], log["state"]) == ("a\ufffd\n", "err\n", "ended")
    assert vm.log_bytes(outcome["run_id"]) == b"a\xff\n"
    assert vm.log_bytes(outcome["run_id"], "stderr") == b"err\n"
    assert [run["run_id"] for run in vm.logs()["runs"]] == [outcome["run_id"]]
    with pytest.raises(InvalidInputError):
        vm.logs(99)
    with pytest.raises(InvalidInputError):
        vm.log_bytes(outcome["run_id"], "stdin")  # type: ignore[arg-type]


def test_a_stream_comes_while_the_command_runs(vm: VM):
    pieces: list[bytes] = []
    with vm.stream("for i in 1 2 3; do echo $i; read line; done", stdin="a\nb\nc\n") as stream:
        for piece in stream:
            assert piece.stream == "stdout"
            pieces.append(piece.data)
        assert stream.outcome() == stream.outcome()
    assert b"".join(pieces) == b"1\n2\n3\n"


def test_a_stream_that_is_closed_ends_its_command(vm: VM):
    with vm.stream("echo begin; sleep 1000", timeout_seconds=900) as stream:
        assert next(iter(stream)).data == b"begin\n"
        assert sleepers(vm) == 1
    assert host.settled(lambda: sleepers(vm) == 0)
    with pytest.raises(CallInterruptedError, match="ended before its outcome"):
        stream.outcome()


def test_a_stream_that_nobody_has_any_more_ends_its_command(vm: VM):
    stream = vm.stream("echo begin; sleep 1000", timeout_seconds=900)
    next(stream)
    del stream
    assert host.settled(lambda: sleepers(vm) == 0)


def test_a_command_whose_output_nobody_reads_waits(vm: VM):
    with vm.stream("head -c 50000000 /dev/zero; echo done > /tmp/done", timeout_seconds=900) as stream:
        time.sleep(0.5)
        assert vm.exec("cat /tmp/done")["exit_code"] != 0
        assert next(stream).stream == "stdout"


def test_iterating_raises_what_kept_a_command_from_ending(pyro: Pyro, vm: VM):
    with pytest.raises(UnknownVMError):
        list(pyro.stream_vm("0123456789ab", command="echo hi"))
    assert [piece.data for piece in vm.stream("echo out; exit 3")] == [b"out\n"], "an exit code is data"
    with vm.stream("echo begin; sleep 1000", timeout_seconds=900) as stream:
        assert next(stream).data == b"begin\n"
        stream.close()
        with pytest.raises(CallInterruptedError, match="ended before its outcome"):
            next(stream)
    with vm.stream("echo begin; sleep 1000", timeout_seconds=900) as stream:
        assert next(stream).data == b"begin\n"
        assert host.cli("vm", "delete", vm.vm_id).returncode == 0
        with pytest.raises(PyroError):
            list(stream)


def test_a_stream_reports_what_kept_its_command_from_running(pyro: Pyro, vm: VM):
    vm.stop()
    with vm.stream("true") as stream, pytest.raises(WrongVMStateError):
        stream.outcome()
