#!/usr/bin/env python3
"""s2d fsck against planted damage: a superblock, a copy of a block, every copy of one, checksum pages, the extent table, the
middle of a log, nodes of a file system's trees on every copy. Each is found and named, nothing else is, and nothing on the disks changes; --repair mends the
superblock. At last the nodes start on what was damaged on one copy only, and heal."""
import contextlib
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools/py"))

from lab import Failed, Lab  # noqa: E402

BLOCK = 4096
NODE_MAGIC = b"fsND"
BATCH_MAGIC = struct.pack("<Q", 0x6863746162733273)
TABLE_MAGIC = struct.pack("<Q", 0x7478655f64327331)
PAGE_MAGIC = struct.pack("<I", 0x65676170)


class Cluster:
    def __init__(self, folder):
        self.lab = Lab(folder)
        self.folders = [self.lab.node_dir(number) for number in (1, 2, 3)]

    def disks(self):
        return [folder / "disks/ssd0" for folder in self.folders]

    def stop(self):
        """In turn: what the first one missed makes its columns stale, and those are not compared."""
        for number in (1, 2, 3):
            self.lab.devcluster("stop", number)

    def fsck(self, *options, folders=None):
        """Exit status and what it said."""
        done = subprocess.run([self.lab.bin / "s2d", "fsck", *options, *(folders or self.folders)], text=True,
                              capture_output=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def expect(self, status, *words, options=(), folders=None, without=()):
        code, text = self.fsck(*options, folders=folders)
        missing = [word for word in words if word not in text]
        surplus = [word for word in without if word in text]
        if code != status or missing or surplus:
            raise Failed(f"s2d fsck {options}: exit {code} instead of {status}, lacks {missing}, should not say {surplus}:\n{text}")
        return text


def blocks(path):
    """(offset, contents) of every block that is not a hole."""
    with open(path, "rb") as disk:
        size, at = os.fstat(disk.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(disk.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(disk.fileno(), at, os.SEEK_HOLE)
            at -= at % BLOCK
            while at < end:
                disk.seek(at)
                piece = disk.read(min(1 << 20, end - at))
                for i in range(0, len(piece), BLOCK):
                    yield at + i, piece[i:i + BLOCK]
                at += len(piece)


def spots(disks, wanted):
    """(disk, offset) of every block on these disks that wanted() says yes to."""
    return [(disk, offset) for disk in disks for offset, block in blocks(disk) if wanted(block)]


@contextlib.contextmanager
def damaged(places, fill=None, stays=False):
    """Bytes in the middle of these blocks are flipped; or the block is filled. It is as before afterwards, unless it stays."""
    before = []
    for path, offset in places:
        with open(path, "r+b") as disk:
            disk.seek(offset)
            old = disk.read(BLOCK)
            before.append((path, offset, old))
            disk.seek(offset)
            disk.write(fill or old[:2000] + bytes(255 - byte for byte in old[2000:2100]) + old[2100:])
    if not places:
        raise Failed("there is nothing to damage")
    yield
    for path, offset, old in before:
        with open(path, "r+b") as disk:
            if not stays:
                disk.seek(offset)
                disk.write(old)


def damage_superblock(cluster):
    disk = cluster.disks()[0]
    with damaged([(disk, 0)], fill=bytes(BLOCK)):
        for _ in range(2):  # looking changes nothing
            cluster.expect(1, "disk ssd0 of node1: one of its two superblocks is damaged", "--repair", "2 volumes: 1 problems")
        cluster.expect(0, "mended now", options=["--repair"])
        cluster.expect(0)


def damage_one_copy(cluster, contents):
    places = spots(cluster.disks()[2:], lambda block: block == contents)
    with damaged(places):
        cluster.expect(1, "volume v", "were rotten", without=["volume p: slab"])


def damage_every_copy(cluster, contents):
    with damaged(spots(cluster.disks(), lambda block: block == contents)):
        cluster.expect(1, "volume v", "were rotten", "4 files")  # the trees are whole


def damage_log(cluster):
    disk = cluster.disks()[2]
    batches = []
    for offset, block in blocks(disk):
        if block[:8] == BATCH_MAGIC:
            batches.append((struct.unpack_from("<Q", block, 32)[0], offset))
    batches.sort()
    with damaged([(disk, batches[-4][1])], fill=b"\xff" * BLOCK):
        cluster.expect(1, "of node3: its log has a hole")


def damage_checksum_pages(cluster):
    """One of a disk at a time: its blocks are not believed, the other copies are, and no file is missed."""
    found = 0
    pages = spots(cluster.disks()[1:2], lambda block: block[:4] == PAGE_MAGIC)
    for place in pages:
        with damaged([place]):
            code, text = cluster.fsck()
        if code == 0:
            continue  # it is of an extent that was freed
        found += 1
        for word in ("ssd0 of node2: 1 of its checksum pages are damaged", "were rotten", "4 files"):
            if word not in text:
                raise Failed(f"a damaged checksum page: exit {code}, lacks '{word}':\n{text}")
    if not found:
        raise Failed(f"none of {len(pages)} checksum pages was missed")
    return f"{found} of {len(pages)} pages"


def damage_extent_table(cluster):
    """All columns whose rows it holds are lost, on this disk alone."""
    with damaged(spots(cluster.disks()[:1], lambda block: block[:8] == TABLE_MAGIC)[:1]):
        cluster.expect(1, "ssd0 of node1:", "rows of its extent table cannot be read", "4 files",
                       without=["cannot be mounted", "its log has a hole", "of node2", "of node3"])


def damage_trees(cluster):
    """Every version of a node that lies about: those in use are missed by the trees."""
    found = set()
    nodes = {}
    for disk in cluster.disks():
        for offset, block in blocks(disk):
            if block[:4] == NODE_MAGIC:
                nodes.setdefault(block, []).append((disk, offset))
    for places in list(nodes.values())[-24:]:
        with damaged(places):
            code, text = cluster.fsck()
        if "damaged" in text or "cannot be mounted" in text:
            found.add(tuple(places))
        if code != 0:
            if "volume v: slab" in text and "volume p: slab" in text:
                raise Failed(f"one node is on two volumes?\n{text}")
    if not found:
        raise Failed(f"none of {len(nodes)} nodes of trees was missed")
    return f"{len(found)} of {min(len(nodes), 24)} versions"


def heal(cluster, contents):
    with damaged(spots(cluster.disks()[2:], lambda block: block == contents), stays=True):
        cluster.expect(1, "were rotten")
    for number in (1, 2, 3):
        cluster.lab.devcluster("start", number)
    cluster.lab.wait_healthy()
    online = cluster.lab.s2d("volume", "check", "v", check=False)
    if "rotten" not in online.stdout + online.stderr:
        raise Failed(f"volume check did not find it: {online.stdout} {online.stderr}")
    cluster.stop()
    cluster.expect(0)


def main():
    with tempfile.TemporaryDirectory(prefix="s2d-fsck.", dir="/var/tmp") as folder:
        cluster = Cluster(pathlib.Path(folder) / "cluster")
        lab = cluster.lab
        try:
            lab.devcluster("up", "--disks", "ssd:1x1G")
            data = pathlib.Path(folder) / "data"
            data.write_bytes(os.urandom(40 << 20))
            contents = data.read_bytes()[100 * BLOCK:101 * BLOCK]
            for volume in ("v", "p"):
                lab.s2d("volume", "create", volume, "--size", "256M", "--resiliency", "mirror3")
            lab.s2d("file", "import", data, "v/data")
            other = pathlib.Path(folder) / "other"
            other.write_bytes(os.urandom(90 << 20))
            for name in ("p/one", "p/two"):  # so much that the logs were destaged, and pages written
                lab.s2d("file", "import", other, name)
            lab.s2d("file", "clone", "v/data", "v/clone")
            lab.s2d("volume", "snapshot", "create", "v", "before")
            print("a folder that is no node's is left as it is", flush=True)
            nobody = pathlib.Path(folder) / "nobody"
            nobody.mkdir()
            cluster.expect(1, "is it the folder of a node?", folders=[nobody])
            if list(nobody.iterdir()):
                raise Failed(f"fsck made {list(nobody.iterdir())}")
            print("a running node is not touched", flush=True)
            cluster.expect(1, "is in use", "stop the node first", folders=cluster.folders[:1])
            cluster.stop()
            cluster.expect(0, "checked 3 disks and 2 volumes: 0 problems")
            for what, test in (("a superblock", damage_superblock), ("one copy of a block", lambda c: damage_one_copy(c, contents)),
                               ("every copy of a block", lambda c: damage_every_copy(c, contents)),
                               ("checksum pages", damage_checksum_pages), ("a block of the extent table", damage_extent_table),
                               ("the middle of a log", damage_log),
                               ("nodes of the trees", damage_trees)):
                print(f"{what}: found {test(cluster) or ''}", flush=True)
                cluster.expect(0)
            heal(cluster, contents)
            print("what was damaged on one copy healed")
        finally:
            lab.devcluster("down")


try:
    main()
except (Failed, subprocess.SubprocessError, OSError) as failure:
    sys.exit(f"FAILED: {failure}")
