#!/usr/bin/env python3
"""Thin volumes give their room back, with extents of the size that a pool has by default, on three real daemons.

  files   512 MiB in files large and small, written through FUSE and deleted: the volume has one slab again, as when nothing was in it
  copies  512 MiB, a clone, a snapshot: the files are deleted and all stays; then the snapshot: one slab
  killed  768 MiB are deleted, and the owner killed when the first of them are trimmed: the next owner gives the rest back

At the end all copies and both file systems are right.

usage: thin.py
"""
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from lab import Failed, Lab, together  # noqa: E402

MIB = 1 << 20
EXTENT = "256M"     # what 'pool create' takes by itself
EXTENT_MIB = 256
GROUP_MIB = 126     # of the file system: what one trim gives back
SMALL = 200         # files of 64 KiB
KILLED_MIB = 768    # in the file of the last step
PATIENCE = 60       # a checkpoint each 10 s, its trims, and two looks at what was left alone for 2 s
TRIES = 3           # to kill the owner in the middle of its trims


def wait(condition, what, seconds=PATIENCE):
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.1)
    return time.monotonic() - begun


def contents(number):
    """A MiB that no other is like."""
    return random.Random(number).randbytes(4096) * (MIB // 4096)


def write(path, mib):
    with open(path, "wb", buffering=0) as file:
        for at in range(mib):
            file.write(contents(at))


def expect(path, mib):
    """Of each eighth MiB."""
    with open(path, "rb", buffering=0) as file:
        for at in range(0, mib, 8):
            file.seek(at * MIB)
            if file.read(MIB) != contents(at):
                raise Failed(f"{path}: MiB {at} is not what was written")


class Thin:
    def __init__(self, lab):
        self.lab = lab
        self.begun = time.monotonic()

    def say(self, text):
        print(f"{time.monotonic() - self.begun:4.0f} s  {text}", flush=True)

    def mount(self, node, volume):
        return self.lab.node_dir(node) / "clusterstorage" / volume

    def slabs(self, volume):
        return self.lab.json("volume", "show", volume)["slabs"]

    def await_one_slab(self, volume, what):
        """The first one: what the file system needs when nothing is in it. Nothing else of the pool is the volume's then."""
        try:
            return wait(lambda: self.slabs(volume) == 1, what)
        except Failed as failure:
            raise Failed(f"{failure}; '{volume}' has {self.slabs(volume)} slabs") from None

    def expect_slabs(self, volume, mib):
        if self.slabs(volume) * EXTENT_MIB < mib:
            raise Failed(f"{mib} MiB are in '{volume}', which has {self.slabs(volume)} slabs")

    # ---- steps ----

    def setup(self):
        self.lab.devcluster("up", "--nodes", 3, "--disks", "ssd:1x5G", "--extent", EXTENT)
        for volume in ("files", "copies"):
            self.lab.s2d("volume", "create", volume, "--size", "16G", node=1)
            if not os.path.ismount(self.mount(1, volume)):
                raise Failed(f"{volume} was created, but is not mounted on the node that was asked")
            for node in (2, 3):
                wait(lambda: os.path.ismount(self.mount(node, volume)), f"the mount of {volume} on node {node}")

    def fill_files(self):
        folder = self.mount(2, "files") / "folder"
        folder.mkdir()
        for number in range(SMALL):
            (folder / f"small{number}").write_bytes(contents(number)[:65536])
        write(folder / "large", 500)

    def fill_copies(self):
        write(self.mount(3, "copies") / "file", 512)
        self.lab.s2d("file", "clone", "copies/file", "copies/clone")
        self.lab.s2d("volume", "snapshot", "create", "copies", "before")

    def fill(self):
        together(self.fill_files, self.fill_copies)
        self.expect_slabs("files", 512)
        self.expect_slabs("copies", 512)
        self.say("two volumes have 512 MiB each, a clone, a snapshot")

    def files(self):
        for path in sorted(self.mount(1, "files").glob("folder/*")):
            path.unlink()
        (self.mount(3, "files") / "folder").rmdir()
        for name in ("file", "clone"):
            (self.mount(2, "copies") / name).unlink()
        took = self.await_one_slab("files", "the room of files that were deleted")
        self.say(f"files: all was deleted, and is the pool's again after {took:.1f} s")

    def copies(self):
        self.expect_slabs("copies", 512)
        for name in ("file", "clone"):
            expect(self.mount(1, "copies") / ".snapshots/before" / name, 512)
        self.lab.s2d("volume", "snapshot", "delete", "copies", "before", "--yes")
        took = self.await_one_slab("copies", "the room of a snapshot that was deleted")
        self.say(f"copies: they kept what was in them, and gave it back {took:.1f} s after the last was deleted")

    def trimmed(self, owner):
        return self.lab.json("volume", "show", "files", node=owner)["status"]["written_bytes"] // MIB

    def kill_in_trims(self, number):
        """True when the owner was killed after its first trims, and before its last."""
        owner = self.lab.owner("files")
        path = self.mount(owner % 3 + 1, "files") / f"file{number}"
        write(path, KILLED_MIB)
        self.expect_slabs("files", KILLED_MIB)
        self.lab.devcluster("slow-disk", owner, "ssd0")  # else the trims are over in no time
        daemon = int((self.lab.node_dir(owner) / "s2dd.pid").read_text())
        before = seen = self.trimmed(owner)
        path.unlink()
        deadline = time.monotonic() + PATIENCE
        while seen < before + GROUP_MIB:  # and no time lost then
            if time.monotonic() > deadline:
                raise Failed(f"no trim within {PATIENCE} s")
            seen = self.trimmed(owner)
        os.kill(daemon, signal.SIGKILL)
        seen -= before
        wait(lambda: self.lab.owner("files", node=owner % 3 + 1) not in (0, owner), "a new owner")
        self.lab.devcluster("start", owner)  # a slab stays as long as one of its columns is stale
        took = self.await_one_slab("files", "the room of files whose owner was killed before it had trimmed them")
        self.say(f"killed: the owner when it had trimmed {seen} of {KILLED_MIB} MiB; all is the pool's again after {took:.1f} s")
        return seen < KILLED_MIB - GROUP_MIB

    def killed(self):
        for number in range(TRIES):
            if self.kill_in_trims(number):
                return
        raise Failed(f"the owner has trimmed all when it is killed, {TRIES} times")

    def check(self):
        self.lab.wait_healthy()
        for volume in ("files", "copies"):
            seen = self.lab.json("volume", "check", volume)
            if seen["rotten_bytes"] or seen["different_bytes"] or seen["unread_bytes"] or seen["problems"]:
                raise Failed(f"volume check {volume}: {seen}")
        used = self.lab.json("pool", "status")["used_bytes"] // MIB
        if used != 2 * 3 * EXTENT_MIB:
            raise Failed(f"the pool has {used} MiB in use; two empty volumes need a slab each")
        self.say("all copies are equal, both file systems are right")

    def run(self):
        self.setup()
        self.fill()
        self.files()
        self.copies()
        self.killed()
        self.check()


def main():
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="s2d-thin.", dir="/var/tmp") as folder:
        lab = Lab(pathlib.Path(folder) / "cluster")
        try:
            Thin(lab).run()
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            print(f"FAILED: {failure}")
            for path in sorted(lab.dir.glob("node*/s2dd.log")):
                print(f"--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
            return 1
        finally:
            lab.devcluster("down")
    print("thin: all as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
