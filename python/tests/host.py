"""The host as tests see it: who runs, what is open, what lies around."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pyro_mcp import _executable

ENVIRONMENT = "debian:12-base"

THREADS_MAX = 3
"""This one, and those of the runtime."""

DEADLINE_SECONDS = 20
"""For whatever should have happened a moment ago, on a busy machine."""


def cli(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs the `pyro` of this installation."""
    command = [str(_executable.find()), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def settled(condition: Callable[[], bool]) -> bool:
    """Waits until something holds. Tells whether it does."""
    until = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def holders(state: Path) -> list[str]:
    """Other processes that have a file below `state` open: supervisors, and QEMU with its disk."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
            name = (process / "comm").read_text().strip()
        except OSError:
            continue
        if any(link.startswith(f"{state}/") for link in links):
            found.append(f"{process.name} {name}")
    return found


def children() -> list[str]:
    """Children of this process, zombies included."""
    lists = [task / "children" for task in Path("/proc/self/task").iterdir()]
    pids = [pid for path in lists for pid in _text(path).split()]
    return [f"{pid} {_text(Path('/proc') / pid / 'comm').strip()}" for pid in pids]


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sorted(found)


def threads() -> list[str]:
    """The threads of this process, by name."""
    return [_text(task / "comm").strip() for task in Path("/proc/self/task").iterdir()]


def files(directory: Path) -> list[str]:
    """Every file below `directory`."""
    return [str(path) for path in directory.rglob("*") if not path.is_dir()]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
