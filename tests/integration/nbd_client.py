"""A small NBD client for tests: one connection, one request at a time, and a record of what was acknowledged.

It speaks the simplest dialect that the protocol has (fixed newstyle, EXPORT_NAME's successor GO, simple replies), so that what it finds
depends on the server alone.
"""
import random
import socket
import struct
import threading
import time

GO, ABORT = 7, 2
READ, WRITE, DISCONNECT = 0, 1, 2
BLOCK = 4096


class NbdError(Exception):
    """The server answered with an error."""


class NbdClient:
    def __init__(self, path, export, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.handle = 0
        magic, version, flags = struct.unpack(">QQH", self.receive(18))
        if (magic, version) != (0x4E42444D41474943, 0x49484156454F5054):
            raise NbdError("not an NBD server")
        self.socket.sendall(struct.pack(">I", flags & 3))
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">QII", 0x49484156454F5054, GO, len(data)) + data)
        self.size = self.negotiate()

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            data += piece
        return data

    def negotiate(self):
        size = None
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.receive(20))
            data = self.receive(length)
            if kind == 1:
                return size
            if kind & 0x80000000:
                raise NbdError(f"the export is refused: {data.decode(errors='replace')}")
            if kind == 3 and struct.unpack(">H", data[:2])[0] == 0:
                size = struct.unpack(">Q", data[2:10])[0]

    def request(self, command, offset, length, data=b""):
        self.handle += 1
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, self.handle, offset, length) + data)
        magic, error, handle = struct.unpack(">IIQ", self.receive(16))
        if magic != 0x67446698 or handle != self.handle:
            raise NbdError("the answer is nonsense")
        if error:
            raise NbdError(f"error {error} at offset {offset}")

    def read(self, offset, length):
        self.request(READ, offset, length)
        return self.receive(length)

    def write(self, offset, data):
        self.request(WRITE, offset, len(data), data)

    def close(self):
        try:
            self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, DISCONNECT, 0, 0, 0))
        except OSError:
            pass
        self.socket.close()


def stamp(block, version, writer):
    """A block's contents, from which its address, writer and version can be read back."""
    head = struct.pack(">QQQ", block, version, writer)
    return head + random.Random(head).randbytes(BLOCK - len(head))


class Book:
    """What is known of a range of blocks that has one writer at a time."""

    def __init__(self):
        self.version = 0        # the newest that was written
        self.acknowledged = {}  # block → version
        self.maybe = {}         # block → versions that were never answered, since


class Writer(threading.Thread):
    """Writes stamped blocks of its own range, at random, and books what was acknowledged. Reconnects when the connection ends; what was
    under way then may be there or not. Who writes the range next goes on with its book."""

    timeout = 60  # of a request, in seconds

    def __init__(self, path, export, number, blocks, seed, book=None):
        super().__init__(daemon=True)
        self.path, self.export, self.number = path, export, number
        self.first, self.count = number * blocks, blocks
        self.random = random.Random(seed * 1000 + number)
        self.book = book or Book()
        self.acknowledged, self.maybe = self.book.acknowledged, self.book.maybe
        self.errors = []
        self.longest = 0.0
        self.writes = 0
        self.ended = threading.Event()

    def connect(self):
        while not self.ended.is_set():
            try:
                return NbdClient(self.path, self.export, timeout=self.timeout)
            except (OSError, NbdError):
                time.sleep(0.05)
        return None

    def on_write(self, block, version):
        """For those who look at a writer from outside: a write begins."""

    def on_answer(self, begun, ended):
        """A write was acknowledged."""

    def run(self):
        client = self.connect()
        while client and not self.ended.is_set():
            self.book.version += 1
            version = self.book.version
            block = self.first + self.random.randrange(self.count)
            begun = time.monotonic()
            self.on_write(block, version)
            try:
                client.write(block * BLOCK, stamp(block, version, self.number))
            except NbdError as error:
                self.errors.append(str(error))
                self.maybe.setdefault(block, []).append(version)
                continue
            except OSError:
                self.maybe.setdefault(block, []).append(version)
                client = self.connect()
                continue
            self.acknowledged[block] = version
            self.maybe.pop(block, None)
            ended = time.monotonic()
            self.longest = max(self.longest, ended - begun)
            self.writes += 1
            self.on_answer(begun, ended)
        if client:
            client.close()

    def finish(self):
        self.ended.set()
        self.join(120)

    def wrong(self, path):
        """Blocks that do not read back as they must, through the server at path."""
        client = NbdClient(path, self.export)
        found = []
        for block in sorted(set(self.acknowledged) | set(self.maybe)):
            data = client.read(block * BLOCK, BLOCK)
            versions = [self.acknowledged.get(block, 0)] + self.maybe.get(block, [])
            if not any(data == (stamp(block, v, self.number) if v else bytes(BLOCK)) for v in versions):
                seen = struct.unpack(">QQQ", data[:24])
                found.append(f"block {block}: acknowledged version {versions[0]}, maybe {versions[1:]}, "
                             f"read (block, version, writer) = {seen}")
        client.close()
        return found
