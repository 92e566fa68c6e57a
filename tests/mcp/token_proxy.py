"""Adds the bearer token to requests, for a client that cannot be told of one."""

import contextlib
import socket
import threading

HEAD_BYTES_MAX = 64 * 1024
CHUNK_BYTES = 64 * 1024


class TokenProxy:
    """Listens on the loopback interface, and passes each request on over its own connection."""

    def __init__(self) -> None:
        """Listen. Whoever connects waits until `start`."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()

    def start(self, port: int, token: str) -> None:
        """Pass on to `port`."""
        self._run(self._accept, port, token)

    def close(self) -> None:
        """Cut every connection, and wait until nobody uses one any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in list(self._open):
            # The other side may have been faster.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _run(self, work: object, *arguments: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, port: int, token: str) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._run(self._serve, client, port, token)

    def _serve(self, client: socket.socket, port: int, token: str) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            self._open |= {client, server}
            answers = threading.Thread(target=pump, args=(server, client))
            answers.start()
            try:
                server.sendall(with_token(read_head(client), token))
                pump(client, server)
            except OSError:
                server.close()
            answers.join()
            self._open -= {client, server}


def read_head(client: socket.socket) -> bytes:
    """Read up to the end of a request's headers, and whatever came along with it."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES_MAX:
        data = client.recv(CHUNK_BYTES)
        if not data:
            break
        head += data
    return head


def with_token(head: bytes, token: str) -> bytes:
    """Add the token, and have the connection end with this request."""
    headers, end, body = head.partition(b"\r\n\r\n")
    request, *lines = headers.split(b"\r\n")
    lines = [line for line in lines if not line.lower().startswith(b"connection:")]
    added = [b"Connection: close", b"Authorization: Bearer " + token.encode()]
    return b"\r\n".join([request, *added, *lines]) + end + body


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until nothing does."""
    # When one side has gone, the other one will see it.
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
