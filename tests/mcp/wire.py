"""The protocol byte by byte, for what no well-behaved client would send."""

import contextlib
import http.client
import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from host import Host
from server import END_SECONDS_MAX, HttpServer

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}

INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}

ANSWER_SECONDS_MAX = 60.0


def tool_call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    """Give the request that calls a tool."""
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Pipe:
    """A server over standard streams, spoken to in lines."""

    def __init__(self, host: Host, *options: str) -> None:
        """Start it."""
        self.lines: list[str] = []
        with host.log.open("a") as log:
            self.process = subprocess.Popen(
                host.serve(*options),
                env=host.variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def send(self, line: str | dict[str, Any]) -> None:
        """Send a line, or a message as one."""
        assert self.process.stdin is not None
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
        self.process.stdin.flush()

    def greet(self) -> None:
        """Shake hands."""
        self.send(INITIALIZE)
        self.answer(1)
        self.send(INITIALIZED)

    def answer(self, number: int) -> dict[str, Any]:
        """Read on until the request of this number is answered."""
        assert self.process.stdout is not None
        with self._deadline():
            for line in self.process.stdout:
                self.lines.append(line)
                message: dict[str, Any] = json.loads(line)
                if message.get("id") == number:
                    return message
        raise AssertionError("the server ended before it answered")

    def end(self) -> int:
        """Close its input, read what it still says, and give its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        with self._deadline():
            self.lines += self.process.stdout.readlines()
        self.process.stdout.close()
        return self.process.wait(END_SECONDS_MAX)

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """End whoever does not answer: reading a pipe knows no deadline."""
        timer = threading.Timer(ANSWER_SECONDS_MAX, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        """End it, if it has not ended yet."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            # What could not be sent does not matter any more.
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def post(
    server: HttpServer,
    body: bytes | dict[str, Any] = INITIALIZE,
    method: str = "POST",
    **headers: str | None,
) -> http.client.HTTPResponse:
    """Send one request; a header that is `None` is left out, `_` stands for `-` in its name."""
    sent: dict[str, str | None] = {
        "Host": f"127.0.0.1:{server.port}",
        "Authorization": f"Bearer {server.token}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.putrequest(method, "/mcp", skip_host=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        # It may refuse before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(data)
        response = connection.getresponse()
        if response.getheader("Content-Type") != "text/event-stream":
            response.read()
        return response
    finally:
        connection.close()
