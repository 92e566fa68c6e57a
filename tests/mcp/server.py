"""`pyro mcp serve`, over either transport, with the same face to the tests."""

import queue
import subprocess
import threading
from contextlib import AbstractAsyncContextManager
from typing import IO, Protocol

from client import Endpoint, Process, Session, connect
from host import Host

LISTENING = "pyro: listening on "
TOKEN = "pyro: bearer token: "

SERVER_MEMORY_MIB_MAX = 48
"""The most that a server may take, whatever it is sent and whatever its calls print."""

START_SECONDS_MAX = 30.0
END_SECONDS_MAX = 30.0


class Server(Protocol):
    """A server that clients can be connected to."""

    def connect(self, *, handshake: bool = False) -> AbstractAsyncContextManager[Session]:
        """Connect a client."""

    def close(self) -> None:
        """End it, if it has not ended with its client."""


class StdioServer:
    """A server over standard streams: a process of its own for each client."""

    def __init__(self, host: Host, *options: str) -> None:
        """Remember how to start it."""
        self._process = Process(host.serve(*options), host.variables, host.log)

    def command(self) -> list[str]:
        """Give the command line that starts one."""
        return self._process.command

    def connect(self, *, handshake: bool = False) -> AbstractAsyncContextManager[Session]:
        """Start a server and connect a client to it."""
        return connect(self._process, handshake=handshake)

    def close(self) -> None:
        """Do nothing: each one ended with its client."""


class HttpServer:
    """A server that listens on the loopback interface: one process for all clients."""

    def __init__(self, host: Host, *options: str) -> None:
        """Start it, and wait until it listens."""
        self.process = subprocess.Popen(
            host.serve("--transport", "http", "--port", "0", *options),
            env=host.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr, host))
        self._reader.start()
        self.token: str | None = None
        self.url = ""
        try:
            self._wait_until_it_listens("--token-file" not in options)
        except BaseException:
            self.process.kill()
            self.close()
            raise

    @property
    def port(self) -> int:
        """Give the port that it listens on."""
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def endpoint(self) -> Endpoint:
        """Tell clients where it is, and the token."""
        return Endpoint(self.url, {"Authorization": f"Bearer {self.token}"})

    def connect(self, *, handshake: bool = False) -> AbstractAsyncContextManager[Session]:
        """Connect one more client."""
        return connect(self.endpoint(), handshake=handshake)

    def end(self) -> int:
        """Ask it to end, and give its exit status."""
        self.process.terminate()
        return self.process.wait(END_SECONDS_MAX)

    def close(self) -> None:
        """End it, if nobody has yet."""
        try:
            if self.process.poll() is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()

    def _read(self, stream: IO[str], host: Host) -> None:
        with host.log.open("a") as log:
            for line in stream:
                log.write(line)
                log.flush()
                self._lines.put(line.rstrip())
        self._lines.put(None)

    def _wait_until_it_listens(self, tells_token: bool) -> None:
        while not self.url or (tells_token and self.token is None):
            line = self._lines.get(timeout=START_SECONDS_MAX)
            assert line is not None, "the server ended before it listened"
            if line.startswith(LISTENING):
                self.url = line.removeprefix(LISTENING)
            elif line.startswith(TOKEN):
                self.token = line.removeprefix(TOKEN)
