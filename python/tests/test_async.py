"""The surface for asyncio: the same answers, cancellation, many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import host
import pytest
from pyro_mcp import AsyncPyro, AsyncVM, CommandFailedError, InvalidInputError, Pyro, UnknownVMError, VMInfo

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 120), debug=True)


async def sleepers(vm: AsyncVM) -> int:
    listed = await vm.exec("cat /proc/[0-9]*/comm 2> /dev/null | grep -cx sleep || true")
    return int(listed["stdout"])


async def until_sleeping(vm: AsyncVM, count: int) -> None:
    async with asyncio.timeout(20) if hasattr(asyncio, "timeout") else _Never():
        while await sleepers(vm) != count:
            await asyncio.sleep(0.05)


class _Never:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


def test_a_run_is_awaited(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        outcome = await asynchronous.run_in_vm(
            environment=host.ENVIRONMENT, command="cat; exit 3", stdin=b"hi"
        )
        assert (outcome["stdout"], outcome["exit_code"]) == ("hi", 3)

    run(main())


def test_everything_else_is_awaited(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        assert await asynchronous.list_environments() == pyro.list_environments()
        assert (await asynchronous.inspect_environment(host.ENVIRONMENT))["installed"]
        assert (await asynchronous.pull_environment(host.ENVIRONMENT))["source"] == "debian-archive"
        vm_id = (await asynchronous.create_vm(environment=host.ENVIRONMENT))["vm_id"]
        assert (await asynchronous.start_vm(vm_id))["state"] == "started"
        outcome = await asynchronous.exec_vm(vm_id, command="echo hi")
        assert outcome["stdout"] == "hi\n"
        assert (await asynchronous.logs_vm(vm_id))["runs"][0]["command"] == "echo hi"
        assert (await asynchronous.logs_vm(vm_id, outcome["run_id"]))["stdout"] == "hi\n"
        assert await asynchronous.log_bytes_vm(vm_id, outcome["run_id"]) == b"hi\n"
        await asynchronous.write_file_vm(vm_id, "/root/a", b"\0")
        assert await asynchronous.read_file_vm(vm_id, "/root/a") == b"\0"
        assert not (await asynchronous.network_info_vm(vm_id))["network_enabled"]
        assert await asynchronous.list_vms() == [await asynchronous.status_vm(vm_id)]
        assert (await (await asynchronous.attach(vm_id)).status())["state"] == "started"
        assert (await asynchronous.stop_vm(vm_id))["state"] == "stopped"
        assert (await asynchronous.delete_vm(vm_id))["deleted"]
        assert (await asynchronous.reap_expired())["count"] == 0
        assert (await asynchronous.doctor())["runtime_ok"]

    run(main())


def test_errors_are_raised_where_they_are_awaited(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        with pytest.raises(UnknownVMError):
            await asynchronous.status_vm("0123456789ab")
        with pytest.raises(InvalidInputError):
            await asynchronous.run_in_vm(environment=host.ENVIRONMENT, command="")

    run(main())


def test_commands_share_a_vm_and_run_at_the_same_time(pyro: Pyro):
    async def main() -> None:
        async with AsyncPyro().vm(host.ENVIRONMENT) as vm:
            await vm.exec("mkfifo /tmp/pipe")
            # Each needs the other.
            got, _ = await asyncio.gather(vm.exec("cat /tmp/pipe"), vm.exec("echo hi > /tmp/pipe"))
            assert got["stdout"] == "hi\n"
            assert await vm.check_output("printf '\\377'") == b"\xff"
            with pytest.raises(CommandFailedError):
                await vm.check_output("false")
            with pytest.raises(InvalidInputError, match="more than 4 bytes"):
                await vm.check_output("printf 12345; sleep 1000", bytes_max=4, timeout_seconds=900)
            await vm.write_file("/root/x", "text")
            assert await vm.read_file("/root/x") == b"text"
            assert len((await vm.logs())["runs"]) >= 5

    run(main())


def test_output_is_read_while_the_loop_goes_on(pyro: Pyro):
    async def main() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.02)

        heart = asyncio.create_task(beat())
        async with AsyncPyro().vm(host.ENVIRONMENT) as vm:
            seen: list[bytes] = []
            async with vm.stream("echo one; sleep 1; echo two") as stream:
                async for piece in stream:
                    seen.append(piece.data)
                assert (await stream.outcome())["exit_code"] == 0
            assert b"".join(seen) == b"one\ntwo\n"

            async def on_stdout(data: bytes) -> None:
                await asyncio.sleep(0)
                seen.append(data)

            seen.clear()
            outcome = await vm.exec("echo out; echo err >&2", on_stdout=on_stdout, on_stderr=seen.append)
            assert sorted(seen) == [b"err\n", b"out\n"]
            assert outcome["stdout"] == "out\n"
        heart.cancel()
        assert beats > 20, "the loop is never held up"

    run(main())


def test_a_cancelled_task_ends_its_command(pyro: Pyro):
    async def main() -> None:
        async with AsyncPyro().vm(host.ENVIRONMENT) as vm:
            task = asyncio.create_task(vm.exec("sleep 1000", timeout_seconds=900))
            await until_sleeping(vm, 1)
            task.cancel()
            started = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < 5
            await until_sleeping(vm, 0)
            # So does one that reads a stream.
            task = asyncio.create_task(vm.exec("sleep 1000", timeout_seconds=900, on_stdout=lambda _: None))
            await until_sleeping(vm, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_sleeping(vm, 0)
            assert (await vm.exec("echo usable"))["stdout"] == "usable\n"

    run(main())


def test_waits_for_output_that_are_cancelled_lose_none(pyro: Pyro):
    async def main() -> None:
        async with AsyncPyro().vm(host.ENVIRONMENT) as vm:
            command = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done"
            got, cancelled = b"", 0
            async with vm.stream(command, timeout_seconds=100) as stream:
                while True:
                    # Most are cancelled, at every moment there is.
                    wait = asyncio.ensure_future(stream.__anext__())
                    await asyncio.sleep(cancelled % 20 / 20_000)
                    wait.cancel()
                    try:
                        got += (await wait).data
                    except asyncio.CancelledError:
                        cancelled += 1
                    except StopAsyncIteration:
                        break
                outcome = await stream.outcome()
            assert cancelled > 20
            assert len(got) == outcome["stdout_bytes"]
            assert got == b"".join(b"%d\n" % number for number in range(3000)), "in order"

    run(main())


def test_a_stream_whose_command_could_not_end_says_so(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        with pytest.raises(UnknownVMError):
            async for _ in asynchronous.stream_vm("0123456789ab", command="echo hi"):
                pass

    run(main())


def test_a_vm_is_deleted_however_often_its_task_is_cancelled(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        for delay in (0, 0.001, 0.01, 0.05):
            leaving = asyncio.Event()

            async def use(leaving: asyncio.Event = leaving) -> None:
                async with asynchronous.vm(host.ENVIRONMENT):
                    leaving.set()

            task = asyncio.create_task(use())
            await leaving.wait()
            while not task.done():
                task.cancel()
                await asyncio.sleep(delay)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asynchronous.list_vms() == []

    run(main())


def test_a_creation_is_undone_however_often_its_task_is_cancelled(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        for delay in (0.005, 0.01, 0.02, 0.04, 0.1, 0.2):
            for work in (asynchronous.create_vm(environment=host.ENVIRONMENT), enter()):
                task = asyncio.ensure_future(work)
                await asyncio.sleep(delay)
                while not task.done():
                    task.cancel()
                    await asyncio.sleep(0)
                if not task.cancelled():
                    await asynchronous.delete_vm(task.result()["vm_id"])
                assert await asynchronous.list_vms() == []

    async def enter() -> VMInfo:
        async with AsyncPyro().vm(host.ENVIRONMENT):
            await asyncio.sleep(1000)
        raise AssertionError

    run(main())


def test_nothing_is_left_of_a_cancelled_run_when_the_task_has_ended(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        work = asynchronous.run_in_vm(environment=host.ENVIRONMENT, command="sleep 1000", timeout_seconds=900)
        task = asyncio.create_task(work)
        while not host.children():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert host.children() == []

    run(main())


@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_a_cancelled_creation_leaves_no_vm(pyro: Pyro, delay: float):
    async def main() -> None:
        asynchronous = AsyncPyro()

        async def use() -> None:
            async with asynchronous.vm(host.ENVIRONMENT):
                await asyncio.sleep(1000)

        tasks = [
            asyncio.create_task(asynchronous.create_vm(environment=host.ENVIRONMENT)),
            asyncio.create_task(use()),
        ]
        await asyncio.sleep(delay)
        ended = []
        for task in tasks:
            if not task.cancel():
                ended.append(task)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, dict):
                # It was faster.
                await asynchronous.delete_vm(outcome["vm_id"])
            else:
                assert isinstance(outcome, asyncio.CancelledError), outcome
        assert await asynchronous.list_vms() == []

    run(main())


def test_a_time_out_of_asyncio_ends_the_run(pyro: Pyro):
    async def main() -> None:
        work = AsyncPyro().run_in_vm(environment=host.ENVIRONMENT, command="sleep 1000", timeout_seconds=900)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 0.7)

    run(main())


def test_twenty_run_at_once(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        runs = [
            asynchronous.run_in_vm(
                environment=host.ENVIRONMENT, command=f"echo {number}", timeout_seconds=100, mem_mib=1024
            )
            for number in range(20)
        ]
        outcomes = await asyncio.gather(*runs)
        assert [outcome["stdout"] for outcome in outcomes] == [f"{number}\n" for number in range(20)]

    run(main())


def test_one_may_be_used_in_several_loops(pyro: Pyro):
    asynchronous = AsyncPyro()
    for _ in range(2):
        assert run(asynchronous.list_vms()) == []


def test_a_waiting_call_works_while_a_loop_runs(pyro: Pyro):
    async def main() -> None:
        # As in a notebook, whose cells run inside a loop.
        outcome = pyro.run_in_vm(environment=host.ENVIRONMENT, command="echo hi")
        assert outcome["stdout"] == "hi\n"

    run(main())


def test_creations_that_are_cancelled_when_they_are_almost_done_leave_no_vm(pyro: Pyro):
    async def main() -> None:
        asynchronous = AsyncPyro()
        made = await asynchronous.create_vm(environment=host.ENVIRONMENT)
        await asynchronous.delete_vm(made["vm_id"])
        began = time.monotonic()
        made = await asynchronous.create_vm(environment=host.ENVIRONMENT)
        usual = time.monotonic() - began
        await asynchronous.delete_vm(made["vm_id"])
        for step in range(60):
            creations = [
                asyncio.create_task(asynchronous.create_vm(environment=host.ENVIRONMENT)) for _ in range(2)
            ]
            await asyncio.sleep(usual * (0.7 + step / 60))
            for creation in creations:
                creation.cancel()
            for outcome in await asyncio.gather(*creations, return_exceptions=True):
                if isinstance(outcome, dict):
                    await asynchronous.delete_vm(outcome["vm_id"])
                else:
                    assert isinstance(outcome, asyncio.CancelledError), outcome
            assert (await asynchronous.list_vms()) == [], step

    run(main())
