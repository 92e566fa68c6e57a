"""Does what is measured, from within: the arguments are host, port, MiB, connections and round trips.

The server takes the times: the clock of an emulated guest stands still while the guest does.
"""
import socket, sys

host, port, mib, connections, round_trips = sys.argv[1], *map(int, sys.argv[2:])
address = socket.gethostbyname(host)
block = memoryview(bytes(1 << 20))
room = bytearray(1 << 20)


def connect(what, count=0):
    connection = socket.create_connection((address, port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(what + count.to_bytes(4, "big"))
    return connection


def download(mib):
    left = mib << 20
    with connect(b"d", mib) as connection:
        while left:
            count = connection.recv_into(room)
            assert count, left
            left -= count
        connection.sendall(b"k")
        assert connection.recv(1) == b"k"


def upload(mib):
    with connect(b"u", mib) as connection:
        for _ in range(mib):
            connection.sendall(block)
        assert connection.recv(1) == b"k"


def connects(count):
    with connect(b"c", count) as marks:
        assert marks.recv(1) == b"k"
        for _ in range(count):
            with connect(b"e") as connection:
                assert connection.recv(1) == b"k"
        marks.sendall(b"k")
        assert marks.recv(1) == b"k"


def answer(count):
    with connect(b"r", count) as connection:
        for _ in range(count):
            assert connection.recv(1) == b"x"
            connection.sendall(b"x")
        assert connection.recv(1) == b"k"


# The first of each is not counted: emulators translate, and buffers grow.
for part in 8, 1:
    download(max(mib // part, 1))
    upload(max(mib // part, 1))
    connects(max(connections // part, 1))
    answer(max(round_trips // part, 1))
print("done")
