"""A VM as an object, for asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, overload

from pyro_mcp import _options
from pyro_mcp._async_stream import AsyncStream, OnOutput
from pyro_mcp._await import finish, result
from pyro_mcp._collected import CollectedOutput
from pyro_mcp._errors import UnknownVMError, VMExpiredError
from pyro_mcp._options import Content, GuestPath, Input
from pyro_mcp._payloads import (
    Cleanup,
    ExecOutcome,
    NetworkInfo,
    RunList,
    RunLog,
    StreamName,
    VMInfo,
)

if TYPE_CHECKING:
    from pyro_mcp import _native


class AsyncVM:
    """A VM that several commands share: `VM` for asyncio. Commands may run at the same time."""

    def __init__(
        self,
        engine: _native.Engine,
        *,
        options: _options.VMOptions | None = None,
        metadata: dict[str, str] | None = None,
        vm_id: str | None = None,
    ) -> None:
        self._engine = engine
        self._vm_options = options
        self._metadata = metadata or {}
        self._vm_id = vm_id

    def __repr__(self) -> str:
        return f"AsyncVM({self._vm_id or 'not made yet'})"

    async def __aenter__(self) -> AsyncVM:
        if self._vm_options is None:
            return self
        if self._vm_id is not None:
            raise RuntimeError("this VM is in use by another `async with` block")
        creation = self._engine.create_vm(self._vm_options, self._metadata)
        try:
            self._vm_id = (await result(creation))["vm_id"]
            await self.start()
        except BaseException:
            # Its machine as well, if it was started.
            self._vm_id = None
            await finish(creation.undo())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._vm_options is None:
            return
        try:
            await finish(self._engine.delete_vm(self.vm_id))
        except (UnknownVMError, VMExpiredError):
            # Somebody else deleted it, or its time was over: it is gone, as it should be.
            pass
        finally:
            self._vm_id = None

    @property
    def vm_id(self) -> str:
        """Its name, by which every process of this user finds it."""
        if self._vm_id is None:
            raise RuntimeError("this VM exists inside its `async with` block only")
        return self._vm_id

    async def exec(
        self,
        command: str,
        *,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> ExecOutcome:
        """Runs a shell command as root. See `Pyro.exec_vm`."""
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        if on_stdout is None and on_stderr is None:
            return await result(self._engine.exec_vm(self.vm_id, options))
        stream: AsyncStream[ExecOutcome] = AsyncStream(self._engine.stream_vm(self.vm_id, options))
        async with stream:
            return await stream.feed(on_stdout, on_stderr)

    def stream(
        self,
        command: str,
        *,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
    ) -> AsyncStream[ExecOutcome]:
        """Runs a shell command while its output is read. See `AsyncStream`."""
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        return AsyncStream(self._engine.stream_vm(self.vm_id, options))

    async def check_output(
        self,
        command: str,
        *,
        bytes_max: int = _options.FILE_BYTES_MAX,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
    ) -> bytes:
        """All that a command writes to its standard output, byte for byte.

        A command that writes more than `bytes_max` bytes is ended. The other arguments are those of `exec`.

        Raises:
            CommandFailedError: where its exit code is not 0. Of its standard error the last 64 KiB are kept.
            InvalidInputError: where it writes more than `bytes_max` bytes.
            PyroError: as `exec` does.
        """
        output = CollectedOutput(bytes_max)
        outcome = await self.exec(
            command,
            timeout_seconds=timeout_seconds,
            env=env,
            cwd=cwd,
            stdin=stdin,
            on_stdout=output.take_stdout,
            on_stderr=output.take_stderr,
        )
        return output.checked(command, outcome["exit_code"])

    async def read_file(
        self,
        path: GuestPath,
        *,
        bytes_max: int = _options.FILE_BYTES_MAX,
        timeout_seconds: float = 30,
    ) -> bytes:
        """The content of a file. See `Pyro.read_file_vm`."""
        return await result(self._engine.read_file(self.vm_id, path, bytes_max, timeout_seconds))

    async def write_file(self, path: GuestPath, data: Content, *, timeout_seconds: float = 30) -> None:
        """Makes or replaces a file. See `Pyro.write_file_vm`."""
        content = _options.content(data, "data")
        await result(self._engine.write_file(self.vm_id, path, content, timeout_seconds))

    async def status(self) -> VMInfo:
        """Where it stands. See `Pyro.status_vm`."""
        return await result(self._engine.status_vm(self.vm_id))

    async def network_info(self) -> NetworkInfo:
        """What its network is. See `Pyro.network_info_vm`."""
        return await result(self._engine.network_info_vm(self.vm_id))

    @overload
    async def logs(self, run_id: None = None) -> RunList: ...

    @overload
    async def logs(self, run_id: int) -> RunLog: ...

    @overload
    async def logs(self, run_id: int | None) -> RunList | RunLog: ...

    async def logs(self, run_id: int | None = None) -> RunList | RunLog:
        """Its commands, or what one of them wrote. See `Pyro.logs_vm`."""
        if run_id is None:
            return await result(self._engine.list_runs(self.vm_id))
        return await result(self._engine.run_log(self.vm_id, run_id))

    async def log_bytes(self, run_id: int, stream: StreamName = "stdout") -> bytes:
        """What a command wrote, byte for byte. See `Pyro.log_bytes_vm`."""
        return await result(self._engine.log_bytes(self.vm_id, run_id, stream))

    async def start(self) -> VMInfo:
        """Starts it again after `stop`. See `Pyro.start_vm`."""
        return await result(self._engine.start_vm(self.vm_id))

    async def stop(self) -> VMInfo:
        """Ends its machine and its commands; its files are kept. See `Pyro.stop_vm`."""
        return await result(self._engine.stop_vm(self.vm_id))

    async def delete(self) -> Cleanup:
        """Ends it for good. See `Pyro.delete_vm`."""
        return await result(self._engine.delete_vm(self.vm_id))
