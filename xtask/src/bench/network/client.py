"""Measures the network from within: the arguments are host, port, MiB, connections and round trips."""
import json, socket, statistics, sys, time

host, port, mib, connections, round_trips = sys.argv[1], *map(int, sys.argv[2:])
address = socket.gethostbyname(host)
block = memoryview(bytes(1 << 20))
room = bytearray(1 << 20)


def connect(what, mib=0):
    connection = socket.create_connection((address, port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(what + mib.to_bytes(4, "big"))
    return connection


def download(mib):
    started, left = time.monotonic(), mib << 20
    with connect(b"d", mib) as connection:
        while count := connection.recv_into(room):
            left -= count
    assert left == 0, left
    return (mib << 20) / 1e6 / (time.monotonic() - started)


def upload(mib):
    started = time.monotonic()
    with connect(b"u") as connection:
        for _ in range(mib):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        came = int.from_bytes(connection.recv(8), "big")
    assert came == mib << 20, came
    return (mib << 20) / 1e6 / (time.monotonic() - started)


def connects(count):
    started = time.monotonic()
    for _ in range(count):
        with connect(b"e") as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
    return count / (time.monotonic() - started)


def round_trip_ms(count):
    times = []
    with connect(b"e") as connection:
        for _ in range(count):
            started = time.monotonic()
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            times.append(time.monotonic() - started)
    return statistics.median(times) * 1e3


# The first of each is not counted: emulators translate, and buffers grow.
download(max(mib // 8, 1))
upload(max(mib // 8, 1))
connects(2)
round_trip_ms(2)
print("numbers", json.dumps([download(mib), upload(mib), connects(connections), round_trip_ms(round_trips)]))
