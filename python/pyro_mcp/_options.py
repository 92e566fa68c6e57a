"""From the arguments of methods to those of the native engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypedDict

OnOutput: TypeAlias = Callable[[bytes], object]
"""Is given each piece of output as it comes."""

Input: TypeAlias = "str | bytes | bytearray | memoryview | None"
"""What a command reads from its standard input. Text is sent as UTF-8."""

VCPU_COUNT = 1
MEM_MIB = 1024
TTL_SECONDS = 600
TIMEOUT_SECONDS = 30
FILE_BYTES_MAX = 64 * 1024 * 1024


class VMOptions(TypedDict):
    environment: str
    vcpu_count: int
    mem_mib: int
    ttl_seconds: int
    network: bool
    allow_host_compat: bool


class ExecOptions(TypedDict):
    command: str
    timeout_seconds: float
    env: dict[str, str]
    cwd: str | None
    stdin: bytes | None


def exec_options(
    command: str,
    timeout_seconds: float,
    env: Mapping[str, str] | None,
    cwd: str | None,
    stdin: Input,
) -> ExecOptions:
    return {
        "command": command,
        "timeout_seconds": timeout_seconds,
        "env": dict(env or {}),
        "cwd": cwd,
        "stdin": content(stdin),
    }


def content(data: Input) -> bytes | None:
    """Text and whatever else holds bytes, as bytes."""
    if isinstance(data, str):
        return data.encode()
    return None if data is None else bytes(data)
