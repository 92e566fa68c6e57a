"""`Pyro`: everything pyro does, for code that waits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from pyro_mcp import _await, _executable, _native, _options
from pyro_mcp._options import Content, GuestPath, Input, NetworkPin, OnOutput
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
from pyro_mcp._server import Profile, Server
from pyro_mcp._stream import Stream
from pyro_mcp._vm import VM


class Pyro:
    """Disposable Linux VMs, and the environments they are made of.

    Cheap to make: directories and processes come when they are needed. One may be used from many threads at
    once, and from forked children. Every call can be interrupted with Ctrl-C; it leaves nothing behind then.

    Args:
        cache_dir: Where environments are kept. By default `PYRO_ENVIRONMENT_CACHE_DIR`, or
            `~/.cache/pyro-mcp`.
        base_dir: Where VMs are: their disks, and what processes find them by. By default `PYRO_STATE_DIR`, or
            `~/.local/state/pyro-mcp`.
        max_active_vms: How many VMs made by `create_vm` there may be at a time, 1 to 1000. By default
            `PYRO_MAX_ACTIVE_VMS`, or 4. VMs of `run_in_vm` do not count.
        spares: How many VMs to keep ready, at most 16, of the kind that the last `run_in_vm` had, so that the
            next one starts at once. Each takes some 75 MB. They go with `close`, at the end of a `with`
            block, or with this process.

    Raises:
        InvalidInputError: for a limit out of range, or an environment variable that makes no sense.
        HostUnsupportedError: where this installation lacks its `pyro` executable.
    """

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        max_active_vms: int | None = None,
        spares: int = 0,
    ) -> None:
        self._options: dict[str, Any] = {
            "cache_dir": None if cache_dir is None else os.path.abspath(cache_dir),
            "base_dir": None if base_dir is None else os.path.abspath(base_dir),
            "max_active_vms": max_active_vms,
            "spares": spares,
        }
        self._engine = _native.Engine(
            _executable.find(),
            cache_dir=self._options["cache_dir"],
            state_dir=self._options["base_dir"],
            max_active_vms=max_active_vms,
            spares=spares,
        )

    def __enter__(self) -> Pyro:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the spares that it keeps, and waits until they are gone.

        It may be used afterwards, and keeps no spares then. Without `spares` this does nothing.
        """
        self._engine.close().wait()

    def __repr__(self) -> str:
        return (
            f"Pyro(cache_dir={str(self.cache_dir)!r}, base_dir={str(self.base_dir)!r}, "
            f"max_active_vms={self.max_active_vms})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self._options

    def __setstate__(self, state: dict[str, Any]) -> None:
        Pyro.__init__(self, **state)

    @property
    def engine(self) -> _native.Engine:
        """What does the work. Not for users: it changes as it likes."""
        return self._engine

    @property
    def cache_dir(self) -> Path:
        """Where environments are kept."""
        return self._engine.cache_dir

    @property
    def base_dir(self) -> Path:
        """Where VMs are."""
        return self._engine.state_dir

    @property
    def max_active_vms(self) -> int:
        """How many VMs made by `create_vm` there may be at a time."""
        return self._engine.max_active_vms

    # Environments

    def list_environments(self) -> list[Environment]:
        """The catalog, and what of it is installed.

        Raises:
            EnvironmentUnavailableError: where the directory of environments cannot be read.
        """
        return self._engine.list_environments().wait()

    def inspect_environment(self, environment: str) -> Environment:
        """One environment of the catalog.

        Raises:
            UnknownEnvironmentError: where there is none of this name; the message lists those there are.
        """
        return self._engine.inspect_environment(environment).wait()

    def pull_environment(self, environment: str, *, refresh: bool = False) -> PulledEnvironment:
        """Makes an environment ready, or repairs it. Other calls do that as well when they need it.

        The first time it is built from Debian's signed packages, which takes minutes.

        Args:
            environment: For instance `debian:12`.
            refresh: Build it anew from the archive's present state, for instance for security updates.

        Raises:
            UnknownEnvironmentError: where there is none of this name.
            EnvironmentUnavailableError: where it cannot be fetched, built or verified.
            HostUnsupportedError: where a tool for building it is missing.
            NoSpaceError: where the disk is too full.
        """
        return self._engine.pull_environment(environment, refresh).wait()

    def prune_environments(self, *, all: bool = False) -> PruneReport:
        """Deletes what is outdated, replaced, damaged or was left by an interrupted pull.

        Args:
            all: Delete every environment and every template. What VMs need is kept while they live.
        """
        return self._engine.prune_environments(everything=all).wait()

    # One-shot runs

    def run_in_vm(
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
        """Runs a shell command as root in a fresh VM, which is gone when this returns.

        A command that fails is an outcome, not an error: look at `exit_code`. Where its time is over the
        outcome has `exit_code` 124, `timed_out`, and all output up to then.

        Args:
            environment: For instance `debian:12`; see `list_environments`. It is pulled if it is not there.
            command: For `/bin/sh -lc`; at most 128 KiB.
            vcpu_count: Virtual CPUs, 1 to 8.
            mem_mib: Memory in MiB, 256 to 32768.
            timeout_seconds: End the command after this time, more than 0.
            ttl_seconds: Destroy the VM after this time, whatever it does, 60 to 3600.
            network: Let the guest reach the network: public addresses, and nothing of this host or its
                private networks. What it wanted to reach and did not is in the outcome's `network_refusals`.
            allow_hosts: Names that may be reached, like `example.com`, `*.example.org` or `example.com:443`.
                With any of the three `allow_` arguments nothing else may be.
            allow_cidrs: Addresses and networks that may be reached, private ones as well, like `10.1.0.0/16`
                or `127.0.0.1:8080`: the latter is this host's, and `host.pyro.internal` in the guest.
            deny_hosts: Names that may not be reached, whatever is allowed.
            deny_cidrs: Addresses and networks that may not be reached, whatever is allowed.
            allow_public: Public addresses may be reached, beside what else is allowed.
            publish: Ports of this host's 127.0.0.1 that lead to the guest's, like `8080:80`, or `80` for any
                that is free.
            host_proxy: Give commands the proxy that this process's environment names.
            host_ca: Have commands trust the certificate authorities that this host trusts.
            allow_host_compat: Run the command on this host, WITHOUT any boundary, if no VM can be had.
            env: Environment variables, beside the guest's own; at most 128 KiB together.
            cwd: An absolute path in the guest. By default `/root`.
            stdin: What the command reads from its standard input. By default nothing.
            on_stdout: Called in this thread with each piece of standard output, as bytes, as it is written.
                What it raises ends the command, and is raised here.
            on_stderr: The same for standard error.

        Raises:
            InvalidInputError: for a value outside its limits. Nothing was done then.
            UnknownEnvironmentError: where there is no such environment.
            EnvironmentUnavailableError: where it cannot be pulled.
            HostUnsupportedError: where the host lacks something that VMs need.
            NoSpaceError: where a disk is too full.
            VMStartError: where the VM did not start.
            VMLostError: where the VM died.
            VMExpiredError: where its time to live was over.
            NotAvailableError: for what this version cannot do yet.
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
            return self._engine.run_in_vm(vm, options).wait()
        stream: Stream[RunOutcome] = Stream(self._engine.stream_in_vm(vm, options))
        with stream:
            return stream.feed(on_stdout, on_stderr)

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
    ) -> Stream[RunOutcome]:
        """`run_in_vm` whose output is read while the command runs: iterate over what this gives."""
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
        return Stream(self._engine.stream_in_vm(vm, options))

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
    ) -> VM:
        """A VM for a `with` block: made and started at its beginning, deleted at its end.

        ```python
        with pyro.vm("debian:12") as vm:
            vm.write_file("/root/hello.py", "print('hello')")
            print(vm.exec("python3 hello.py")["stdout"])
        ```

        The arguments are those of `create_vm`.
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
        return VM(self._engine, options=vm, metadata=dict(metadata or {}))

    def attach(self, vm_id: str) -> VM:
        """The methods of a VM that exists already. A `with` block leaves it as it is.

        Raises:
            UnknownVMError: where there is no such VM.
        """
        vm = VM(self._engine, vm_id=vm_id)
        vm.status()
        return vm

    def create_vm(
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
        """Makes a VM with a life of its own. `start_vm` starts it.

        It lives until it is deleted or its time is over, whatever becomes of this process, and every process
        of the same user can use it.

        Args:
            environment: For instance `debian:12`. It is pulled if it is not there.
            vcpu_count: Virtual CPUs, 1 to 8.
            mem_mib: Memory in MiB, 256 to 32768.
            ttl_seconds: Destroy the VM after this time, whatever it does, 60 to 3600.
            network: Let the guest reach the network. This and what follows as for `run_in_vm`.
            allow_hosts: Names that may be reached.
            allow_cidrs: Addresses and networks that may be reached.
            deny_hosts: Names that may not.
            deny_cidrs: Addresses and networks that may not.
            allow_public: Public addresses may be reached, beside what else is allowed.
            publish: Ports of this host that lead to the guest's; `network_info_vm` shows them.
            host_proxy: Give commands this host's proxy.
            host_ca: Have commands trust what this host trusts.
            allow_host_compat: Only noted: such a VM never runs anything on the host.
            metadata: What `status_vm` shows; at most 64 entries and 16 KiB.

        Raises:
            TooManyVMsError: where there are `max_active_vms` already.
            PyroError: as `run_in_vm` does.
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
        return _await.wait(self._engine.create_vm(vm, dict(metadata or {})))

    def start_vm(self, vm_id: str) -> VMInfo:
        """Starts a VM that was created, or stopped.

        Raises:
            UnknownVMError: where there is no such VM.
            WrongVMStateError: where it runs already.
            VMStartError: where its machine did not start.
            VMExpiredError, VMLostError: where it has just ended.
        """
        return self._engine.start_vm(vm_id).wait()

    def exec_vm(
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
        """Runs a shell command as root in a VM that was started. The VM goes on afterwards.

        The arguments are those of `run_in_vm`.

        Raises:
            InvalidInputError: for a value outside its limits.
            UnknownVMError: where there is no such VM.
            WrongVMStateError: where it was not started.
            VMExpiredError, VMLostError: where it has ended.
        """
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        if on_stdout is None and on_stderr is None:
            return self._engine.exec_vm(vm_id, options).wait()
        stream: Stream[ExecOutcome] = Stream(self._engine.stream_vm(vm_id, options))
        with stream:
            return stream.feed(on_stdout, on_stderr)

    def stream_vm(
        self,
        vm_id: str,
        *,
        command: str,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
    ) -> Stream[ExecOutcome]:
        """`exec_vm` whose output is read while the command runs: iterate over what this gives."""
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        return Stream(self._engine.stream_vm(vm_id, options))

    def stop_vm(self, vm_id: str) -> VMInfo:
        """Ends a VM's machine and its commands, in any state. What was written is kept.

        Raises:
            UnknownVMError: where there is no such VM.
        """
        return self._engine.stop_vm(vm_id).wait()

    def delete_vm(self, vm_id: str) -> Cleanup:
        """Ends a VM for good, in any state.

        Raises:
            UnknownVMError: where there is no such VM.
        """
        return self._engine.delete_vm(vm_id).wait()

    def status_vm(self, vm_id: str) -> VMInfo:
        """A VM, and where it stands.

        Raises:
            UnknownVMError: where there is no such VM.
        """
        return self._engine.status_vm(vm_id).wait()

    def list_vms(self) -> list[VMInfo]:
        """Every VM of this user, whoever made it, oldest first."""
        return self._engine.list_vms().wait()

    def network_info_vm(self, vm_id: str) -> NetworkInfo:
        """What a VM's network is.

        Raises:
            UnknownVMError: where there is no such VM.
        """
        return self._engine.network_info_vm(vm_id).wait()

    def reap_expired(self) -> ReapReport:
        """Removes what VMs left whose time is over. Rarely needed: they remove themselves."""
        return self._engine.reap_expired().wait()

    # What commands wrote

    @overload
    def logs_vm(self, vm_id: str, run_id: None = None) -> RunList: ...

    @overload
    def logs_vm(self, vm_id: str, run_id: int) -> RunLog: ...

    @overload
    def logs_vm(self, vm_id: str, run_id: int | None) -> RunList | RunLog: ...

    def logs_vm(self, vm_id: str, run_id: int | None = None) -> RunList | RunLog:
        """The commands of a VM; or all that is kept of what one of them wrote, as text.

        Kept until the VM is deleted: of each stream the first 64 MiB, of all commands of a VM the latest 200
        and 256 MiB.

        Args:
            vm_id: The VM.
            run_id: The number of a command, as in the outcome of `exec_vm`.

        Raises:
            UnknownVMError: where there is no such VM.
            InvalidInputError: where nothing of such a command is kept.
        """
        if run_id is None:
            return self._engine.list_runs(vm_id).wait()
        return self._engine.run_log(vm_id, run_id).wait()

    def log_bytes_vm(self, vm_id: str, run_id: int, stream: StreamName = "stdout") -> bytes:
        """All that is kept of one stream of a command, byte for byte. See `logs_vm`."""
        return self._engine.log_bytes(vm_id, run_id, stream).wait()

    # Files of the guest

    def read_file_vm(
        self,
        vm_id: str,
        path: GuestPath,
        *,
        bytes_max: int = _options.FILE_BYTES_MAX,
        timeout_seconds: float = 30,
    ) -> bytes:
        """The content of a file in a VM that was started.

        Args:
            vm_id: The VM.
            path: An absolute path in the guest.
            bytes_max: What it may have at most, 64 MiB or less.
            timeout_seconds: How long that may take.

        Raises:
            InvalidInputError: where the file cannot be read, or is larger.
            DeadlineReachedError: where it took too long.
            PyroError: as `exec_vm` does.
        """
        return self._engine.read_file(vm_id, path, bytes_max, timeout_seconds).wait()

    def write_file_vm(
        self, vm_id: str, path: GuestPath, data: Content, *, timeout_seconds: float = 30
    ) -> None:
        """Makes or replaces a file in a VM that was started, and the directories above it.

        Args:
            vm_id: The VM.
            path: An absolute path in the guest.
            data: The content; text is written as UTF-8.
            timeout_seconds: How long that may take.

        Raises:
            InvalidInputError: where the file cannot be written.
            PyroError: as `exec_vm` does.
        """
        content = _options.content(data, "data")
        self._engine.write_file(vm_id, path, content, timeout_seconds).wait()

    # The host, and other surfaces

    def doctor(self, *, fix: bool = False) -> DoctorReport:
        """Whether this host can run VMs, and how: the object of `pyro doctor --json`.

        With `fix` what killed processes have left is removed before, as `pyro doctor --fix` does; nothing
        that is in use.
        """
        return self._engine.doctor(fix).wait()

    def create_server(
        self,
        *,
        profile: Profile = "full",
        allow_host_compat: bool = False,
        network_pin: NetworkPin | None = None,
    ) -> Server:
        """A server of the Model Context Protocol with the same methods as tools.

        Args:
            profile: `run` for one-shot runs only, `full` for VMs that several commands share as well.
            allow_host_compat: Let calls ask for a command to run on this host, WITHOUT any boundary, where no
                VM can be had.
            network_pin: What networks calls may ask for; no call can widen it. By default public addresses,
                and whatever ports they publish.
        """
        pin = _options.network_pin(network_pin)
        return Server(self._engine.create_server(profile, allow_host_compat, pin))
