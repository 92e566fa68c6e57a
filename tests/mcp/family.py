"""The processes of one test, found wherever they are: servers, supervisors, QEMU.

Whatever is started through `Family.command` inherits the writing end of a named pipe, and so does
whatever that starts. The reading end reports a hang-up when nobody holds it any more. A confined
QEMU inherits nothing, but has its scratch disk open, which lies below the state directory.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

LIFELINE_FD = 100
"""The number under which the pipe is inherited: far above what anybody else gives to a child."""


class Role(Enum):
    """What a process is there for."""

    SERVER = "mcp serve"
    SUPERVISOR = "internal supervise"
    QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Process:
    """A process of the family."""

    pid: int
    command_line: str

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def peak_memory_mib(self) -> float:
        """Tell the most memory it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 1024

    def plays(self, role: Role) -> bool:
        """Tell whether it is there for `role`."""
        is_internal = " internal " in self.command_line
        return role.value in self.command_line and (role is not Role.QEMU or not is_internal)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; false if the time is over before."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return bool(_wait_for_event(pidfd, seconds))
        finally:
            os.close(pidfd)

    def _parent(self) -> int:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0
        return int(stat.rpartition(")")[2].split()[1])

    def _files(self) -> Iterator[str]:
        try:
            for entry in Path(f"/proc/{self.pid}/fd").iterdir():
                yield os.readlink(entry)
        except OSError:
            return

    def _file(self, fd: int) -> str | None:
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{fd}")
        except OSError:
            return None


class Family:
    """Everybody who was started through `command`, and whoever they started."""

    def __init__(self, directory: Path, state: Path) -> None:
        """Make the pipe in `directory`; scratch disks are below `state`."""
        self._state = f"{state}/"
        self._pipe = str(directory / "lifeline")
        os.mkfifo(self._pipe)
        self._reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Held until nobody may be left: a pipe that never had a writer reports no hang-up.
        self._writer: int | None = os.open(self._pipe, os.O_WRONLY | os.O_CLOEXEC)

    def command(self, *words: str) -> list[str]:
        """Give the command line that runs `words` as a member of the family."""
        script = f'exec {LIFELINE_FD}>"$0"; exec "$@"'
        return ["/bin/bash", "-c", script, self._pipe, *words]

    def members(self, role: Role | None = None) -> list[Process]:
        """Find everybody who lives, or everybody of one role."""
        family = [process for process in _processes() if self._has(process)]
        if role is None:
            return family
        # What a supervisor starts looks like itself until it becomes another program.
        supervisors = {process.pid for process in family if process.plays(Role.SUPERVISOR)}
        return [
            process
            for process in family
            if process.plays(role)
            and not (role is Role.SUPERVISOR and process._parent() in supervisors)
        ]

    def the(self, role: Role) -> Process:
        """Find the one process of a role."""
        (process,) = self.members(role)
        return process

    def is_over_within(self, seconds: float) -> bool:
        """Wait until nobody lives. Nothing can be started any more."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None
        until = time.monotonic() + seconds
        if not _wait_for_event(self._reader, seconds):
            return False
        # Only a supervisor starts a QEMU, so none can come later.
        return all(
            qemu.ends_within(max(0.0, until - time.monotonic())) for qemu in self.members(Role.QEMU)
        )

    def close(self) -> None:
        """Give the pipe back."""
        if self._writer is not None:
            os.close(self._writer)
        os.close(self._reader)

    def _has(self, process: Process) -> bool:
        if process._file(LIFELINE_FD) == self._pipe and process.pid != os.getpid():
            return True
        is_qemu = process.plays(Role.QEMU)
        return is_qemu and any(file.startswith(self._state) for file in process._files())


def _processes() -> Iterator[Process]:
    """Look at everybody on this host. One may end while it is looked at."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        yield Process(int(entry.name), words.replace(b"\0", b" ").decode(errors="replace"))


def _wait_for_event(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
