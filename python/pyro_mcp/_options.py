"""From the arguments of methods to those of the native engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypedDict, cast

OnOutput: TypeAlias = Callable[[bytes], object]
"""Is given each piece of output as it comes."""

Content: TypeAlias = "str | bytes | bytearray | memoryview"
"""What a file is to hold. Text is written as UTF-8."""

Input: TypeAlias = "Content | None"
"""What a command reads from its standard input. Text is sent as UTF-8."""

GuestPath: TypeAlias = "str | os.PathLike[str]"
"""A path in the guest: text, or for instance a `PurePosixPath`."""

VCPU_COUNT = 1
MEM_MIB = 1024
TTL_SECONDS = 600
TIMEOUT_SECONDS = 30
FILE_BYTES_MAX = 64 * 1024 * 1024


class NetworkPin(TypedDict, total=False):
    """What an operator allows, with the keys of `/etc/pyro-mcp/network.toml`."""

    network: bool
    """Whether VMs may have a network at all. By default they may."""
    allow_hosts: Sequence[str]
    allow_cidrs: Sequence[str]
    deny_hosts: Sequence[str]
    deny_cidrs: Sequence[str]
    allow_public: bool
    publish: bool
    """Whether ports may be published. By default they may."""


class NetworkOptions(TypedDict):
    network: bool
    allow_hosts: Sequence[str]
    allow_cidrs: Sequence[str]
    deny_hosts: Sequence[str]
    deny_cidrs: Sequence[str]
    allow_public: bool
    publish: Sequence[str]
    host_proxy: bool
    host_ca: bool


class VMOptions(TypedDict):
    environment: str
    vcpu_count: int
    mem_mib: int
    ttl_seconds: int
    network: NetworkOptions
    allow_host_compat: bool


class ExecOptions(TypedDict):
    command: str
    timeout_seconds: float
    env: dict[str, str]
    cwd: GuestPath | None
    stdin: bytes | None


def exec_options(
    command: str,
    timeout_seconds: float,
    env: Mapping[str, str] | None,
    cwd: GuestPath | None,
    stdin: Input,
) -> ExecOptions:
    return {
        "command": command,
        "timeout_seconds": timeout_seconds,
        "env": dict(env or {}),
        "cwd": cwd,
        "stdin": None if stdin is None else content(stdin, "stdin"),
    }


def network_options(
    network: bool,
    rules: tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str], bool],
    publish: Sequence[str],
    host_proxy: bool,
    host_ca: bool,
) -> NetworkOptions:
    allow_hosts, allow_cidrs, deny_hosts, deny_cidrs, allow_public = rules
    return {
        "network": network,
        "allow_hosts": allow_hosts,
        "allow_cidrs": allow_cidrs,
        "deny_hosts": deny_hosts,
        "deny_cidrs": deny_cidrs,
        "allow_public": allow_public,
        "publish": publish,
        "host_proxy": host_proxy,
        "host_ca": host_ca,
    }


def network_pin(pin: NetworkPin | None) -> NetworkPin:
    """A whole pin. A key that is misspelt would restrict nothing, and be missed."""
    whole: NetworkPin = {
        "network": True,
        "allow_hosts": (),
        "allow_cidrs": (),
        "deny_hosts": (),
        "deny_cidrs": (),
        "allow_public": False,
        "publish": True,
    }
    unknown = (pin or {}).keys() - whole.keys()
    if unknown:
        raise TypeError(f"network_pin has no '{min(unknown)}'; expected one of: {', '.join(whole)}")
    whole.update(pin or {})
    return whole


def content(data: object, name: str) -> bytes:
    """The bytes of a `Content`. Anything else is refused: `bytes(5)` would be five bytes."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(cast("bytearray | memoryview[int]", data))
    raise TypeError(f"{name} must be str or bytes-like, not {type(data).__name__}")
