#!/usr/bin/env python3
"""Rot on four real daemons, with a volume of dual parity (2+2: a column of every stripe on each node) and a three-way mirror: in every block
that was written on two of the nodes' disks one random bit is flipped in the file, while the daemons run. So each stripe has two rotten
columns, and of each mirrored block up to two copies of three. That for three pairs of nodes in turn; the last pair's while its daemons
are down. All reads are right each time, a check of the volumes finds and heals every block, a second one finds nothing, health tells which
disks it was; and at the end, with all daemons stopped, 's2d fsck' finds every copy and every parity right."""
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from lab import Failed, Lab  # noqa: E402
from nbd_client import NbdClient  # noqa: E402

MIB, BLOCK, NODES = 1 << 20, 4096, 4
EXTENTS_OFFSET = 152  # in the superblock (pool/disk_format.h)
FILES = {"parity": 48, "copies": 24}  # MiB
OTHER_MIB = 64
LOG_MIB = 256  # of a disk of 1 GiB
SEED = 7


def contents(volume, mib):
    return random.Random(f"{volume} {mib}").randbytes(MIB)


class Rot:
    def __init__(self, lab):
        self.lab, self.random = lab, random.Random(SEED)
        self.flipped = 0

    def disk(self, node):
        return self.lab.node_dir(node) / "disks/ssd0"

    def setup(self):
        self.lab.devcluster("up", "--nodes", NODES, "--disks", "ssd:1x1G")
        self.lab.s2d("volume", "create", "parity", "--size", "160M", "--resiliency", "parity2", "--columns", "2+2")
        self.lab.s2d("volume", "create", "copies", "--size", "160M")
        self.lab.s2d("file", "create", "parity/other", "--size", f"{OTHER_MIB}M")
        for volume, mib in FILES.items():
            self.lab.s2d("file", "create", f"{volume}/file", "--size", f"{mib}M")
            client = NbdClient(self.lab.node_dir(1) / "nbd.sock", f"{volume}/file")
            for at in range(mib):
                client.write(at * MIB, contents(volume, at))
            client.close()

    def push_out(self):
        """Rot below a newer contents in the log would be no rot: writes something else until all of that is in its place."""
        client = NbdClient(self.lab.node_dir(1) / "nbd.sock", "parity/other")
        for at in range(LOG_MIB * NODES // 2 + 64):
            client.write(at % OTHER_MIB * MIB, self.random.randbytes(MIB))
        client.close()

    def flip(self, node):
        """A random bit of each block that is not all zeros, where extents are. Returns how many."""
        count = 0
        with open(self.disk(node), "r+b", buffering=0) as disk:
            [at] = struct.unpack("<Q", os.pread(disk.fileno(), 8, EXTENTS_OFFSET))
            while True:
                try:
                    at = os.lseek(disk.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
                    end = os.lseek(disk.fileno(), at, os.SEEK_HOLE)
                except OSError:
                    break
                while at < end:
                    piece = bytearray(os.pread(disk.fileno(), min(MIB, end - at), at))
                    for block in range(0, len(piece), BLOCK):
                        if piece[block:block + BLOCK].strip(b"\0"):
                            piece[block + self.random.randrange(BLOCK)] ^= 1 << self.random.randrange(8)
                            count += 1
                    os.pwrite(disk.fileno(), piece, at)
                    at += len(piece)
            os.fsync(disk.fileno())
        return count

    def read_all(self, node):
        for volume, mib in FILES.items():
            client = NbdClient(self.lab.node_dir(node) / "nbd.sock", f"{volume}/file")
            for at in range(mib):
                if client.read(at * MIB, MIB) != contents(volume, at):
                    raise Failed(f"{volume}: MiB {at} is wrong, read on node{node}")
            client.close()

    def check(self):
        """Both volumes; rotten blocks that were found. What differs, or cannot be read, fails."""
        rotten = 0
        for volume in FILES:
            seen = self.lab.json("volume", "check", volume)
            if seen["different_bytes"] or seen["unread_bytes"] or seen["problems"]:
                raise Failed(f"check of {volume}: {str(seen)[:1000]}")
            rotten += seen["rotten_bytes"] // BLOCK
        return rotten

    def healed(self, pair):
        """Blocks, since their daemons began."""
        names = {f"node{node}" for node in pair}
        return sum(disk["status"]["healed_blocks"] for disk in self.lab.json("disk", "list") if disk["node"] in names)

    def look_at_health(self, pair):
        told = {disk["node"] for disk in self.lab.json("disk", "list") if disk["operational"] == "Media errors"}
        missing = {f"node{node}" for node in pair} - told
        if missing:
            raise Failed(f"health does not tell of the rot on {missing}")
        if not any(event["code"] == "heal" for event in self.lab.json("cluster", "events")):
            raise Failed("no event tells of the repairs")

    def wait_in_sync(self):
        """A column that is still behind is not read by a check."""
        deadline = time.monotonic() + 120
        while any(self.lab.json("volume", "show", volume)["health"] != "Healthy" for volume in FILES):
            if time.monotonic() > deadline:
                raise Failed(f"not in-sync: {[self.lab.json('volume', 'show', volume) for volume in FILES]}")
            time.sleep(0.1)

    def round(self, pair, read_first, daemons_down=False):
        self.push_out()
        healed = self.healed(pair)
        for node in pair if daemons_down else ():
            self.lab.devcluster("stop", node)
        flipped = sum(self.flip(node) for node in pair)
        for node in pair if daemons_down else ():
            self.lab.devcluster("start", node)
        if daemons_down:
            self.wait_in_sync()
        if read_first:  # half of the rounds: the check is the first to see it
            self.read_all(next(node for node in range(1, NODES + 1) if node not in pair))
        found = self.check()
        self.read_all(pair[0])
        again = self.check()
        if again:
            raise Failed(f"{again} blocks were still rotten after a check (nodes {pair})")
        self.look_at_health(pair)
        healed = self.healed(pair) - (0 if daemons_down else healed)
        if healed < FILES["parity"] * MIB // BLOCK:  # of K + 2 columns, of which K are as large as the file, two
            raise Failed(f"only {healed} blocks were healed")
        self.flipped += flipped
        print(f"nodes {pair}: {flipped} bits flipped, {healed} blocks healed, {found} of them by the check", flush=True)

    def fsck(self):
        for node in range(1, NODES + 1):
            self.lab.devcluster("stop", node)
        done = subprocess.run([self.lab.bin / "s2d", "fsck", *(self.lab.node_dir(node) for node in range(1, NODES + 1))], text=True,
                              capture_output=True, timeout=300)
        if done.returncode != 0:
            raise Failed(f"s2d fsck: {(done.stdout + done.stderr)[-1500:]}")


def main():
    with tempfile.TemporaryDirectory(prefix="s2d-rot.", dir="/var/tmp") as folder:
        rot = Rot(Lab(pathlib.Path(folder) / "cluster"))
        try:
            rot.setup()
            rot.round((1, 2), read_first=True)
            rot.round((3, 4), read_first=False)
            rot.round((2, 3), read_first=True, daemons_down=True)
            rot.fsck()
            print(f"{rot.flipped} bits flipped, in two columns of every stripe at a time: all reads right, all healed")
            return 0
        except (Failed, OSError, subprocess.SubprocessError, StopIteration) as failure:
            print(f"FAILED: {failure!r}", flush=True)
            for log in sorted(rot.lab.dir.glob("node*/s2dd.log")):
                print(f"--- {log.parent.name}", *[line for line in log.read_text(errors="replace").splitlines() if " bus: " not in line][-20:], sep="\n")
            return 1
        finally:
            rot.lab.devcluster("down")


if __name__ == "__main__":
    sys.exit(main())
