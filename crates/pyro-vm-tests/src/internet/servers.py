"""Servers for the tests of the network: on every address of the namespace they run in.

The first argument is a JSON object: `www` is the directory to serve; where there is `certificate`, a file
with it and its key, HTTPS is served as well, and `git`, the directory of the repositories; where there is
`dns`, dnsmasq with these arguments. What is seen is told line by line on standard output, after `ready`.
On standard input a line `go` lets go of those that wait, `start PROGRAM ARGUMENT...` starts a program; its
end ends everything.
"""

import functools
import hashlib
import http.server
import json
import os
import select
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading

ECHO, DIGEST, SOURCE, STUCK, FLOOD, RESET, WATCH = 7, 9, 19, 21, 22, 23, 25
FLOOD_BYTES = 64 << 20
# Without progress for so long the other side does not take any more.
STALL_SECONDS = 3

go = threading.Event()
options = json.loads(sys.argv[1])


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def echo(connection):
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def digest(connection):
    """Reads to the end, and says in the other direction what came."""
    hashed, count = hashlib.sha256(), 0
    while data := connection.recv(1 << 16):
        hashed.update(data)
        count += len(data)
    connection.sendall(f"{count} {hashed.hexdigest()}\n".encode())
    say("digest", count)


def source(connection):
    """Sends as many bytes as it is asked for by a line."""
    count = int(connection.makefile().readline())
    block = bytes(range(256)) * 256
    while count:
        sent = block[:count]
        connection.sendall(sent)
        count -= len(sent)


def stuck(connection):
    """Reads nothing before it may."""
    say("stuck")
    go.wait()
    digest(connection)


def flood(connection):
    """Sends a lot, and tells how far it gets where that is not taken."""
    block, sent, stalled = bytes(1 << 16), 0, False
    connection.setblocking(False)
    while sent < FLOOD_BYTES:
        if select.select([], [connection], [], STALL_SECONDS)[1]:
            sent += connection.send(block[: FLOOD_BYTES - sent])
        elif not stalled:
            stalled = True
            say("flood stalled", sent)
    connection.setblocking(True)
    connection.shutdown(socket.SHUT_WR)
    say("flood sent", sent)


def reset(connection):
    """Takes a part, and resets."""
    left = 1 << 20
    while left > 0:
        left -= len(connection.recv(1 << 16))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def watch(connection):
    """Tells how the connection ends."""
    try:
        while connection.recv(1 << 16):
            pass
        say("watched: end")
    except ConnectionResetError:
        say("watched: reset")


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        say("broken off:", sys.exc_info()[1])


def serve(port, talk):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            talk(self.request)

    server = Server(("::", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def echo_datagrams():
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", ECHO))
    # An answer has to come from the address that was asked.
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    while True:
        data, ancillary, _, peer = server.recvmsg(1 << 16, 1024)
        server.sendmsg([data], ancillary, 0, peer)


class Pages(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.backend() if self.path.startswith("/git/") else super().do_GET()

    def do_POST(self):
        self.backend()

    def backend(self):
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": options["git"],
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, stdout=subprocess.PIPE, check=True
        ).stdout
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *words):
        say("http", self.headers.get("Host"), format % words)


def serve_pages(port, context=None):
    class PageServer(Server):
        def get_request(self):
            connection, peer = super().get_request()
            # The handshake is the thread's that serves the connection.
            options = {"server_side": True, "do_handshake_on_connect": False}
            return (context.wrap_socket(connection, **options) if context else connection), peer

    handler = functools.partial(Pages, directory=options["www"])
    server = PageServer(("::", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def start_dns():
    arguments = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-queries"]
    arguments += ["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    dns = subprocess.Popen(
        arguments + options["dns"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    for line in dns.stderr:
        if "started, version" in line:
            break
    else:
        sys.exit("dnsmasq does not start")

    def tell():
        for line in dns.stderr:
            say("dns", line.strip().partition(": ")[2])

    threading.Thread(target=tell, daemon=True).start()


def main():
    for port, talk in {
        ECHO: echo,
        DIGEST: digest,
        SOURCE: source,
        STUCK: stuck,
        FLOOD: flood,
        RESET: reset,
        WATCH: watch,
    }.items():
        serve(port, talk)
    threading.Thread(target=echo_datagrams, daemon=True).start()
    serve_pages(80)
    if "certificate" in options:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options["certificate"])
        serve_pages(443, context)
    if "dns" in options:
        start_dns()
    say("ready")
    for line in sys.stdin:
        if line == "go\n":
            go.set()
        else:
            program = subprocess.Popen(line.split()[1:], stdout=subprocess.PIPE, text=True)
            say("started", program.stdout.readline().strip())


main()
