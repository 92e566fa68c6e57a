"""The same methods as tools of the Model Context Protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pyro_mcp import _await
from pyro_mcp._errors import InvalidInputError
from pyro_mcp._options import NetworkPin

if TYPE_CHECKING:
    from pyro_mcp import _native

Profile: TypeAlias = Literal["full", "run"]
Transport: TypeAlias = Literal["stdio", "http"]


class Server:
    """A server of the Model Context Protocol, as `pyro mcp serve` starts one. `create_server` makes it.

    Its tools are `vm_run`, `vm_create`, `vm_exec` and so on: the methods of `Pyro`, with the same arguments
    and results. Clients elsewhere are served by `run`; this process asks with `list_tools` and `call_tool`.
    """

    def __init__(self, native: _native.Server) -> None:
        self._native = native

    def run(
        self,
        transport: Transport = "stdio",
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
    ) -> None:
        """Serves until the client at standard input ends, or until Ctrl-C.

        VMs that calls created outlive the server, until their time is over. Everything else ends with it.

        Args:
            transport: `stdio` for the client that started this process, `http` for clients that show a token.
            host: The address to listen on, for `http`.
            port: The port to listen on, for `http`; 0 for any that is free.
            token: What clients have to show, for `http`: 32 characters or more. By default one is made, and
                printed to standard error.

        Raises:
            InvalidInputError: for a value that makes no sense, or an address that is taken.
        """
        self._serving(transport, host, port, token).wait()

    async def run_async(
        self,
        transport: Transport = "stdio",
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
    ) -> None:
        """`run` for asyncio: serves until the client ends, or until the task is cancelled."""
        await _await.result(self._serving(transport, host, port, token))

    async def list_tools(self) -> list[dict[str, Any]]:
        """The tools: their names, descriptions and schemas, as a client sees them."""
        listed = await _await.result(self._native.list_tools())
        return listed["tools"]

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a tool answers a client: `structuredContent`, `content`, and `isError`.

        A tool that fails raises nothing: its answer says so, for a model to read. A task that is cancelled
        ends the call.
        """
        return await _await.result(self._native.call_tool(name, json.dumps(dict(arguments or {}))))

    def _serving(self, transport: str, host: str, port: int, token: str | None) -> _native.Call:
        if transport == "stdio":
            return self._native.run_stdio()
        if transport == "http":
            announce = _announce if token is None else _announce_address
            return self._native.run_http(host=host, port=port, token=token, announce=announce)
        raise InvalidInputError(f"transport must be stdio or http, not '{transport}'", "invalid_input")


def _announce_address(url: str, token: str) -> None:
    print(f"pyro: listening on {url}", file=sys.stderr, flush=True)


def _announce(url: str, token: str) -> None:
    _announce_address(url, token)
    print(f"pyro: bearer token: {token}", file=sys.stderr, flush=True)


def create_server(
    *,
    profile: Profile = "full",
    allow_host_compat: bool = False,
    network_pin: NetworkPin | None = None,
) -> Server:
    """A server with the settings of this process's environment. See `Pyro.create_server`."""
    from pyro_mcp._pyro import Pyro

    return Pyro().create_server(profile=profile, allow_host_compat=allow_host_compat, network_pin=network_pin)
