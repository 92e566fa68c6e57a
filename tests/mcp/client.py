"""What the tests see of a client of the Model Context Protocol, whichever package it comes from.

`mcp` 1.x and 2.x name things differently; `client_of_mcp_1.py` and `client_of_mcp_2.py` hide that.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

GENERATION = int(version("mcp").partition(".")[0])
"""Which Python client is installed: 1 or 2."""

CALL_SECONDS_MAX = 240.0
"""How long a test waits for any one answer."""


@dataclass(frozen=True)
class Tool:
    """A tool as the server describes it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None


@dataclass(frozen=True)
class Answer:
    """What a tool answered."""

    is_error: bool
    structured: dict[str, Any]
    text: str

    def success(self) -> dict[str, Any]:
        """Give the structured content of a call that must have worked."""
        assert not self.is_error, self.text
        return self.structured

    def error(self) -> dict[str, Any]:
        """Give the error of a call that must have failed."""
        assert self.is_error, self.structured
        assert self.structured["ok"] is False
        assert set(self.structured) == {"ok", "error"}
        error = cast("dict[str, Any]", self.structured["error"])
        assert set(error) == {"code", "message", "causes", "hints"}
        assert error["message"] in self.text, "the text tells what the structure does"
        return error


@dataclass(frozen=True)
class Step:
    """One progress notification."""

    value: float
    total: float | None
    message: str | None
    seconds: float
    """When it came, on a clock that only grows."""


OnStep = Callable[[Step], None]


class Session(Protocol):
    """A client that is connected."""

    @property
    def server_name(self) -> str:
        """Give the name by which the server calls itself."""

    @property
    def protocol(self) -> str:
        """Give the revision of the protocol that is spoken."""

    async def tools(self) -> list[Tool]:
        """Ask for the tools."""

    async def call(self, name: str, /, on_step: OnStep | None = None, **arguments: Any) -> Answer:
        """Call a tool. Whoever is cancelled while waiting tells the server."""


@dataclass(frozen=True)
class Process:
    """A server to be started, and spoken to over its standard streams."""

    command: list[str]
    variables: dict[str, str]
    log: Path


@dataclass(frozen=True)
class Endpoint:
    """A server that listens."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


def connect(
    server: Process | Endpoint, *, handshake: bool = False
) -> AbstractAsyncContextManager[Session]:
    """Connect the client that is installed; with `handshake` as before the 2026 revision."""
    module = importlib.import_module(f"client_of_mcp_{GENERATION}")
    return cast("AbstractAsyncContextManager[Session]", module.connect(server, handshake))
