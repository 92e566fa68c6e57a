"""A client of its own process, to be killed: calls a command that never ends.

Its arguments are the command line of a server, or `--url`, a URL and a token.
"""

import os
import sys
from pathlib import Path

import anyio

from client import Endpoint, Process, connect
from host import BASE


async def main() -> None:
    """Call, and wait for ever."""
    server: Process | Endpoint
    if sys.argv[1] == "--url":
        server = Endpoint(sys.argv[2], {"Authorization": f"Bearer {sys.argv[3]}"})
    else:
        server = Process(sys.argv[1:], dict(os.environ), Path(os.environ["HOME"]) / "log")
    async with connect(server) as session:
        await session.call(
            "vm_run", environment=BASE, command="sleep 3600", timeout_seconds=3600, ttl_seconds=3600
        )


anyio.run(main)
