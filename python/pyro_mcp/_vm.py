"""A VM as an object: made at the beginning of a `with` block, deleted at its end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, overload

from pyro_mcp import _options
from pyro_mcp._collected import CollectedOutput
from pyro_mcp._errors import UnknownVMError, VMExpiredError
from pyro_mcp._options import Content, GuestPath, Input, OnOutput
from pyro_mcp._payloads import (
    Cleanup,
    ExecOutcome,
    NetworkInfo,
    RunList,
    RunLog,
    StreamName,
    VMInfo,
)
from pyro_mcp._stream import Stream

if TYPE_CHECKING:
    from pyro_mcp import _native


class VM:
    """A VM that several commands share. `Pyro.vm` and `Pyro.attach` make it.

    One from `Pyro.vm` is to be used in a `with` block, which makes, starts and deletes it. Methods may be
    called from several threads at once.
    """

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
        return f"VM({self._vm_id or 'not made yet'})"

    def __enter__(self) -> VM:
        if self._vm_options is None:
            return self
        if self._vm_id is not None:
            raise RuntimeError("this VM is in use by another `with` block")
        creation = self._engine.create_vm(self._vm_options, self._metadata)
        try:
            self._vm_id = creation.wait()["vm_id"]
            self.start()
        except BaseException:
            # Its machine as well, if it was started.
            self._vm_id = None
            creation.undo().finish()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._vm_options is None:
            return
        try:
            self._engine.delete_vm(self.vm_id).finish()
        except (UnknownVMError, VMExpiredError):
            # Somebody else deleted it, or its time was over: it is gone, as it should be.
            pass
        finally:
            self._vm_id = None

    @property
    def vm_id(self) -> str:
        """Its name, by which every process of this user finds it."""
        if self._vm_id is None:
            raise RuntimeError("this VM exists inside its `with` block only")
        return self._vm_id

    def exec(
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
            return self._engine.exec_vm(self.vm_id, options).wait()
        stream: Stream[ExecOutcome] = Stream(self._engine.stream_vm(self.vm_id, options))
        with stream:
            return stream.feed(on_stdout, on_stderr)

    def stream(
        self,
        command: str,
        *,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: GuestPath | None = None,
        stdin: Input = None,
    ) -> Stream[ExecOutcome]:
        """Runs a shell command while its output is read. See `Stream`."""
        options = _options.exec_options(command, timeout_seconds, env, cwd, stdin)
        return Stream(self._engine.stream_vm(self.vm_id, options))

    def check_output(
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
        outcome = self.exec(
            command,
            timeout_seconds=timeout_seconds,
            env=env,
            cwd=cwd,
            stdin=stdin,
            on_stdout=output.take_stdout,
            on_stderr=output.take_stderr,
        )
        return output.checked(command, outcome["exit_code"])

    def read_file(
        self,
        path: GuestPath,
        *,
        bytes_max: int = _options.FILE_BYTES_MAX,
        timeout_seconds: float = 30,
    ) -> bytes:
        """The content of a file. See `Pyro.read_file_vm`."""
        return self._engine.read_file(self.vm_id, path, bytes_max, timeout_seconds).wait()

    def write_file(self, path: GuestPath, data: Content, *, timeout_seconds: float = 30) -> None:
        """Makes or replaces a file. See `Pyro.write_file_vm`."""
        content = _options.content(data, "data")
        self._engine.write_file(self.vm_id, path, content, timeout_seconds).wait()

    def status(self) -> VMInfo:
        """Where it stands. See `Pyro.status_vm`."""
        return self._engine.status_vm(self.vm_id).wait()

    def network_info(self) -> NetworkInfo:
        """What its network is. See `Pyro.network_info_vm`."""
        return self._engine.network_info_vm(self.vm_id).wait()

    @overload
    def logs(self, run_id: None = None) -> RunList: ...

    @overload
    def logs(self, run_id: int) -> RunLog: ...

    @overload
    def logs(self, run_id: int | None) -> RunList | RunLog: ...

    def logs(self, run_id: int | None = None) -> RunList | RunLog:
        """Its commands, or what one of them wrote. See `Pyro.logs_vm`."""
        if run_id is None:
            return self._engine.list_runs(self.vm_id).wait()
        return self._engine.run_log(self.vm_id, run_id).wait()

    def log_bytes(self, run_id: int, stream: StreamName = "stdout") -> bytes:
        """What a command wrote, byte for byte. See `Pyro.log_bytes_vm`."""
        return self._engine.log_bytes(self.vm_id, run_id, stream).wait()

    def start(self) -> VMInfo:
        """Starts it again after `stop`. See `Pyro.start_vm`."""
        return self._engine.start_vm(self.vm_id).wait()

    def stop(self) -> VMInfo:
        """Ends its machine and its commands; its files are kept. See `Pyro.stop_vm`."""
        return self._engine.stop_vm(self.vm_id).wait()

    def delete(self) -> Cleanup:
        """Ends it for good. See `Pyro.delete_vm`."""
        return self._engine.delete_vm(self.vm_id).wait()
