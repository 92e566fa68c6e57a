"""`AsyncPyro`: everything pyro does, for asyncio."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from pyro_mcp import _options
from pyro_mcp._async_stream import AsyncStream, OnOutput
from pyro_mcp._async_vm import AsyncVM
from pyro_mcp._await import result
from pyro_mcp._options import Content, GuestPath, Input, NetworkPin
from pyro_mcp._payloads import (
    Cleanup,
    DoctorReport,
    Environment,
    ExecOutcome,
    NetworkInfo,
    PruneReport,
    PulledEnvironment,
    ReapReport,
    RunList,
    RunLog,
    RunOutcome,
    StreamName,
    VMInfo,
)
from pyro_mcp._pyro import Pyro
from pyro_mcp._server import Profile, Server


class AsyncPyro:
    """`Pyro` for asyncio: the same methods, arguments, results and errors, to be awaited.

    A task that is cancelled ends what it waits for, the command in the guest included, and nothing of it is
    left when `CancelledError` comes out. It belongs to no event loop, so one may be used in several.
    """

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        max_active_vms: int | None = None,
        spares: int = 0,
    ) -> None:
        self._pyro = Pyro(
            cache_dir=cache_dir, base_dir=base_dir, max_active_vms=max_active_vms, spares=spares
        )
        self._engine = self._pyro.engine

    async def __aenter__(self) -> AsyncPyro:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Gives up the spares that it keeps, and waits until they are gone.

        It may be used afterwards, and keeps no spares then. Without `spares` this does nothing.
        """
        await result(self._engine.close())

    def __repr__(self) -> str:
        return f"Async{self._pyro!r}"

    def __getstate__(self) -> dict[str, Any]:
        return self._pyro.__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        AsyncPyro.__init__(self, **state)

    @property
    def cache_dir(self) -> Path:
        """Where environments are kept."""
        return self._pyro.cache_dir

    @property
    def base_dir(self) -> Path:
        """Where VMs are."""
        return self._pyro.base_dir

    @property
    def max_active_vms(self) -> int:
        """How many VMs made by `create_vm` there may be at a time."""
        return self._pyro.max_active_vms

    # Environments

    async def list_environments(self) -> list[Environment]:
        """The catalog, and what of it is installed. See `Pyro.list_environments`."""
        return await result(self._engine.list_environments())

    async def inspect_environment(self, environment: str) -> Environment:
        """One environment of the catalog. See `Pyro.inspect_environment`."""
        return await result(self._engine.inspect_environment(environment))

    async def pull_environment(self, environment: str, *, refresh: bool = False) -> PulledEnvironment:
        """Makes an environment ready, or repairs it. See `Pyro.pull_environment`."""
        return await result(self._engine.pull_environment(environment, refresh))

    async def prune_environments(self, *, all: bool = False) -> PruneReport:
        """Deletes what nobody needs. See `Pyro.prune_environments`."""
        return await result(self._engine.prune_environments(everything=all))

    # One-shot runs

    async def run_in_vm(
        self,
        *,
        environment: str,
        command: str,
        vcpu_count: int = 1,
        mem_mib: int = 1024,
        timeout_seconds: float = 30,
        ttl_seconds: int = 600,
        network: bool = False,
        allow_hosts: Sequence[str] = (),
        allow_cidrs: Sequence[str] = (),
        deny_hosts: Sequence[str] = (),
        deny_cidrs: Sequence[str] = (),
        allow_public: bool = False,
        publish: Sequence[str] = (),
        host_proxy: bool = False,
        host_ca: bool = False,
        allow_host_compat: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> RunOutcome:
        """Runs a shell command as root in a fresh VM. See `Pyro.run_in_vm`.

        `on_stdout` and `on_stderr` are called in the event loop, and may be coroutine functions.
        """
        rules = (allow_hosts, allow_cidrs, deny_hosts, deny_cidrs, allow_public)
        vm: _options.VMOptions = {
            "environment": environment,
            "vcpu_count": vcpu_count,
            "mem_mib": mem_mib,
            "ttl_seconds": ttl_seconds,
            "network": _options.network_options(network, rules, publish, host_proxy, host_ca),
            "allow_host_compat": allow_host_compat,
        }
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        if on_stdout is None and on_stderr is None:
            return await result(self._engine.run_in_vm(vm, options))
        stream: AsyncStream[RunOutcome] = AsyncStream(self._engine.stream_in_vm(vm, options))
        async with stream:
            return await stream.feed(on_stdout, on_stderr)

    def stream_in_vm(
        self,
        *,
        environment: str,
        command: str,
        vcpu_count: int = 1,
        mem_mib: int = 1024,
        timeout_seconds: float = 30,
        ttl_seconds: int = 600,
        network: bool = False,
        allow_hosts: Sequence[str] = (),
        allow_cidrs: Sequence[str] = (),
        deny_hosts: Sequence[str] = (),
        deny_cidrs: Sequence[str] = (),
        allow_public: bool = False,
        publish: Sequence[str] = (),
        host_proxy: bool = False,
        host_ca: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
    ) -> AsyncStream[RunOutcome]:
        """`run_in_vm` whose output is read while the command runs. See `AsyncStream`."""
        rules = (allow_hosts, allow_cidrs, deny_hosts, deny_cidrs, allow_public)
        vm: _options.VMOptions = {
            "environment": environment,
            "vcpu_count": vcpu_count,
            "mem_mib": mem_mib,
            "ttl_seconds": ttl_seconds,
            "network": _options.network_options(network, rules, publish, host_proxy, host_ca),
            "allow_host_compat": False,
        }
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        return AsyncStream(self._engine.stream_in_vm(vm, options))

    # VMs with a life of their own

    def vm(
        self,
        environment: str,
        *,
        vcpu_count: int = 1,
        mem_mib: int = 1024,
        ttl_seconds: int = 600,
        network: bool = False,
        allow_hosts: Sequence[str] = (),
        allow_cidrs: Sequence[str] = (),
        deny_hosts: Sequence[str] = (),
        deny_cidrs: Sequence[str] = (),
        allow_public: bool = False,
        publish: Sequence[str] = (),
        host_proxy: bool = False,
        host_ca: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncVM:
        """A VM for an `async with` block: made and started at its beginning, deleted at its end.

        See `Pyro.vm`.
        """
        rules = (allow_hosts, allow_cidrs, deny_hosts, deny_cidrs, allow_public)
        vm: _options.VMOptions = {
            "environment": environment,
            "vcpu_count": vcpu_count,
            "mem_mib": mem_mib,
            "ttl_seconds": ttl_seconds,
            "network": _options.network_options(network, rules, publish, host_proxy, host_ca),
            "allow_host_compat": False,
        }
        return AsyncVM(self._engine, options=vm, metadata=dict(metadata or {}))

    async def attach(self, vm_id: str) -> AsyncVM:
        """The methods of a VM that exists already. See `Pyro.attach`."""
        vm = AsyncVM(self._engine, vm_id=vm_id)
        await vm.status()
        return vm

    async def create_vm(
        self,
        *,
        environment: str,
        vcpu_count: int = 1,
        mem_mib: int = 1024,
        ttl_seconds: int = 600,
        network: bool = False,
        allow_hosts: Sequence[str] = (),
        allow_cidrs: Sequence[str] = (),
        deny_hosts: Sequence[str] = (),
        deny_cidrs: Sequence[str] = (),
        allow_public: bool = False,
        publish: Sequence[str] = (),
        host_proxy: bool = False,
        host_ca: bool = False,
        allow_host_compat: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> VMInfo:
        """Makes a VM with a life of its own. See `Pyro.create_vm`."""
        rules = (allow_hosts, allow_cidrs, deny_hosts, deny_cidrs, allow_public)
        vm: _options.VMOptions = {
            "environment": environment,
            "vcpu_count": vcpu_count,
            "mem_mib": mem_mib,
            "ttl_seconds": ttl_seconds,
            "network": _options.network_options(network, rules, publish, host_proxy, host_ca),
            "allow_host_compat": allow_host_compat,
        }
        return await result(self._engine.create_vm(vm, dict(metadata or {})))

    async def start_vm(self, vm_id: str) -> VMInfo:
        """Starts a VM that was created, or stopped. See `Pyro.start_vm`."""
        return await result(self._engine.start_vm(vm_id))

    async def exec_vm(
        self,
        vm_id: str,
        *,
        command: str,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> ExecOutcome:
        """Runs a shell command as root in a VM that was started. See `Pyro.exec_vm`.

        `on_stdout` and `on_stderr` are called in the event loop, and may be coroutine functions.
        """
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        if on_stdout is None and on_stderr is None:
            return await result(self._engine.exec_vm(vm_id, options))
        stream: AsyncStream[ExecOutcome] = AsyncStream(self._engine.stream_vm(vm_id, options))
        async with stream:
            return await stream.feed(on_stdout, on_stderr)

    def stream_vm(
        self,
        vm_id: str,
        *,
        command: str,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
    ) -> AsyncStream[ExecOutcome]:
        """`exec_vm` whose output is read while the command runs. See `AsyncStream`."""
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        return AsyncStream(self._engine.stream_vm(vm_id, options))

    async def stop_vm(self, vm_id: str) -> VMInfo:
        """Ends a VM's machine and its commands. See `Pyro.stop_vm`."""
        return await result(self._engine.stop_vm(vm_id))

    async def delete_vm(self, vm_id: str) -> Cleanup:
        """Ends a VM for good. See `Pyro.delete_vm`."""
        return await result(self._engine.delete_vm(vm_id))

    async def status_vm(self, vm_id: str) -> VMInfo:
        """A VM, and where it stands. See `Pyro.status_vm`."""
        return await result(self._engine.status_vm(vm_id))

    async def list_vms(self) -> list[VMInfo]:
        """Every VM of this user, whoever made it, oldest first."""
        return await result(self._engine.list_vms())

    async def network_info_vm(self, vm_id: str) -> NetworkInfo:
        """What a VM's network is. See `Pyro.network_info_vm`."""
        return await result(self._engine.network_info_vm(vm_id))

    async def reap_expired(self) -> ReapReport:
        """Removes what VMs left whose time is over. See `Pyro.reap_expired`."""
        return await result(self._engine.reap_expired())

    # What commands wrote

    @overload
    async def logs_vm(self, vm_id: str, run_id: None = None) -> RunList: ...

    @overload
    async def logs_vm(self, vm_id: str, run_id: int) -> RunLog: ...

    @overload
    async def logs_vm(self, vm_id: str, run_id: int | None) -> RunList | RunLog: ...

    async def logs_vm(self, vm_id: str, run_id: int | None = None) -> RunList | RunLog:
        """The commands of a VM, or what one of them wrote. See `Pyro.logs_vm`."""
        if run_id is None:
            return await result(self._engine.list_runs(vm_id))
        return await result(self._engine.run_log(vm_id, run_id))

    async def log_bytes_vm(self, vm_id: str, run_id: int, stream: StreamName = "stdout") -> bytes:
        """All that is kept of one stream of a command, byte for byte. See `Pyro.logs_vm`."""
        return await result(self._engine.log_bytes(vm_id, run_id, stream))

    # Files of the guest

    async def read_file_vm(
        self,
        vm_id: str,
        path: GuestPath,
        *,
        bytes_max: int = _options.FILE_BYTES_MAX,
        timeout_seconds: float = 30,
    ) -> bytes:
        """The content of a file in a VM that was started. See `Pyro.read_file_vm`."""
        return await result(self._engine.read_file(vm_id, path, bytes_max, timeout_seconds))

    async def write_file_vm(
        self, vm_id: str, path: GuestPath, data: Content, *, timeout_seconds: float = 30
    ) -> None:
        """Makes or replaces a file in a VM that was started. See `Pyro.write_file_vm`."""
        content = _options.content(data, "data")
        await result(self._engine.write_file(vm_id, path, content, timeout_seconds))

    # The host, and other surfaces

    async def doctor(self, *, fix: bool = False) -> DoctorReport:
        """Whether this host can run VMs, and how. See `Pyro.doctor`."""
        return await result(self._engine.doctor(fix))

    def create_server(
        self,
        *,
        profile: Profile = "full",
        allow_host_compat: bool = False,
        network_pin: NetworkPin | None = None,
    ) -> Server:
        """A server of the Model Context Protocol. See `Pyro.create_server`."""
        return self._pyro.create_server(
            profile=profile, allow_host_compat=allow_host_compat, network_pin=network_pin
        )
