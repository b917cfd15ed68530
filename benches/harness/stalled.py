"""A process of its own that opens thousands of connections, each of which stalls in one of some ways, and says when each was closed.

`stalled.py DESCRIPTION`, of which DESCRIPTION is JSON, says by a line of JSON that all stand still, and by another how late each was
closed. It keeps its own ends until its stdin ends: nothing that stalls would help the host to be rid of it.
"""

import collections
import concurrent.futures
import json
import resource
import select
import socket
import ssl
import sys
import time

HEAD = b"GET /hello HTTP/1.1\r\nHost: edge\r\n"
UPLOAD = b"POST /echo HTTP/1.1\r\nHost: edge\r\nContent-Length: 100000\r\n\r\nonly this"
POUR = b"GET /misbehave/pour HTTP/1.1\r\nHost: edge\r\n\r\n"
# A reader that stops holds little in its own socket, so that it is the host that has to wait.
RECEIVED_BYTES = 4096
DRIP_SECONDS = 1.0
TICK_SECONDS = 0.05
LOOK_SECONDS = 0.1
# How much later than its time a connection that was not closed is given up.
PATIENCE_SECONDS = 10
OPENERS = 8
# States of the kernel's (tcp_states.h): nobody has closed it; and the ways in which one ends that is still to send something.
ESTABLISHED = "01"
ENDING = {"04", "09", "0B"}


class Connection:
    """One that stalls: since when, and how late it was closed; of one that does not read, also how late the kernel was rid of it."""

    def __init__(self, way, stalled, socket):
        self.way = way
        self.stalled = stalled
        self.socket = socket
        # What the kernel calls it: a socket of TLS is a socket all the same.
        self.port = socket.getsockname()[1]
        self.late = self.gone = None

    def lateness(self):
        return time.monotonic() - self.stalled - self.way["timeout"]


def opened(way, address, context):
    """A connection that has come as far as its way goes. The time counts from before the last that it does: whatever the host
    takes is the host's."""
    plain = socket.socket()
    # Each way comes from an address of its own: no client has more than it may.
    plain.bind((way["source"], 0))
    if way["name"] == "reader":
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED_BYTES)
    plain.settimeout(30)
    began = time.monotonic()
    plain.connect(address)
    if way["name"] == "handshake":
        plain.sendall(half_a_hello(context))
        return Connection(way, began, plain)
    client = context.wrap_socket(plain) if context else plain
    began = time.monotonic() if context else began
    return Connection(way, STALLS[way["name"]](client) or began, client)


def half_a_hello(context):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = outgoing.read()
    return hello[: len(hello) // 2]


# What each does before it stands still; and the moment from which its time counts, where that is not its beginning.

def line(client):
    client.sendall(b"GET /hel")


def drip(client):
    client.sendall(HEAD)


def upload(client):
    now = time.monotonic()
    client.sendall(UPLOAD)
    return now


def idle(client):
    client.sendall(HEAD + b"\r\n")
    now = time.monotonic()
    expect(client, b"Hello, world!\n")
    return now


def reader(client):
    now = time.monotonic()
    client.sendall(POUR)
    expect(client, b"HTTP/1.1 200")
    return now


STALLS = {"silent": lambda client: None, "line": line, "drip": drip, "upload": upload, "idle": idle, "reader": reader}


def expect(client, wanted):
    """Reads no further than what is wanted, as far as there is a choice."""
    read = b""
    while not read.endswith(wanted):
        some = client.recv(len(wanted) if wanted.startswith(b"HTTP") else 4096)
        if not some or len(read) > 4096:
            raise ConnectionError(f"{wanted!r} was wanted, and {read + some!r} came")
        read += some


def open_all(ways, address, context):
    """All of them, those first whose time is longest, so that the first to be closed was among the last to come."""
    wanted = [way for way in sorted(ways, key=lambda way: -way["timeout"]) for _ in range(way["count"])]
    with concurrent.futures.ThreadPoolExecutor(OPENERS) as pool:
        return list(pool.map(lambda way: opened(way, address, context), wanted))


def host_ends(address, source):
    """The state of the host's end of each connection from `source`, by the port that it comes from."""
    host, remote = f":{address[1]:04X}", socket.inet_aton(source)[::-1].hex().upper() + ":"
    with open("/proc/net/tcp") as table:
        rows = (row.split(None, 4) for row in table if remote in row)
        return {int(row[2][9:], 16): row[3] for row in rows if row[1].endswith(host) and row[2].startswith(remote)}


class Watch:
    """Sees to connections until they are closed: by an end or a reset, which show without reading anything. Behind what a client does
    not read no end can come; of those the host's own end is looked for."""

    def __init__(self, connections, address):
        self.address = address
        self.poll = select.epoll()
        self.open = {each.socket.fileno(): each for each in connections if each.way["name"] != "reader"}
        self.readers = {each.port: each for each in connections if each.way["name"] == "reader"}
        self.dripping = collections.deque(each for each in connections if each.way["name"] == "drip")
        for number, each in self.open.items():
            each.socket.setblocking(False)
            self.poll.register(number, select.EPOLLRDHUP)
        self.ends = max(each.stalled + each.way["timeout"] for each in connections) + PATIENCE_SECONDS
        self.looks_next = min((each.stalled + each.way["timeout"] for each in self.readers.values()), default=self.ends) - 0.5
        self.began = time.monotonic()
        self.dripped = 0

    def run(self):
        while (self.open or self.readers) and time.monotonic() < self.ends:
            for number, _ in self.poll.poll(TICK_SECONDS):
                self.poll.unregister(number)
                each = self.open.pop(number)
                each.late = each.lateness()
            if self.readers and time.monotonic() > self.looks_next:
                self.looks_next = time.monotonic() + LOOK_SECONDS
                self.look()
            self.drip()

    def look(self):
        ends = host_ends(self.address, next(iter(self.readers.values())).way["source"])
        for port, each in list(self.readers.items()):
            state = ends.get(port)
            if state != ESTABLISHED and each.late is None:
                each.late = each.lateness()
            if state != ESTABLISHED and state not in ENDING:
                each.gone = self.readers.pop(port).lateness()

    def drip(self):
        """A byte of each, once in DRIP_SECONDS; those of them whose turn it is by now."""
        due = int((time.monotonic() - self.began) / DRIP_SECONDS * len(self.dripping))
        while self.dripped < due and self.dripping:
            self.dripped += 1
            each = self.dripping[0]
            self.dripping.rotate(-1)
            if each.late is None:
                try:
                    each.socket.send(b"x")
                except OSError:
                    # Its end will be seen, or was.
                    pass


def main():
    described = json.loads(sys.argv[1])
    ways, address = described["ways"], ("127.0.0.1", described["port"])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = None
    if described["tls"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    began = time.monotonic()
    connections = open_all(ways, address, context)
    watch = Watch(connections, address)
    first = min(each.stalled + each.way["timeout"] for each in connections)
    now = time.monotonic()
    print(json.dumps({"took": now - began, "until_first": first - now}), flush=True)
    watch.run()
    late = collections.defaultdict(list)
    for each in connections:
        late[each.way["name"]].append(each.late)
        if each.way["name"] == "reader":
            late["gone"].append(each.gone)
    print(json.dumps(late), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
