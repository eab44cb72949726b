#!/usr/bin/env python3
"""Cache disks on three real daemons: hard disks whose logs lie on a fast disk; under load the cache disk of one node fails, and a new one is
claimed and takes the logs over; then those of two nodes fail at once; each time writes go on, all heals by itself, and nothing acknowledged
is lost; the last one is retired, and claimed again; and all of it holds over a restart of every daemon."""
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from fault_clients import Fio  # noqa: E402
from lab import Failed, Lab, together  # noqa: E402
from nbd_client import Writer  # noqa: E402

FILE = "v/file"
FIO_FILE, FIO_MIB, FIO_SECONDS, FIO_RATE = "v/fio", 48, 20, 200
WRITERS, BLOCKS = 3, 300
CAPACITY = ("hdd0", "hdd1")


def logs(lab):
    """{"node1:hdd0": the disk that its log is on}"""
    return {f"{disk['node']}:{disk['name']}": disk.get("status", {}).get("log_on") for disk in lab.json("disk", "list")
            if disk["role"] == "capacity"}


def await_logs(lab, node, *wanted, seconds=20):
    """The capacity disks of the node have their logs on a disk of that name, or one of those ("own": each on itself)."""
    deadline = time.monotonic() + seconds
    while True:
        found = logs(lab)
        if all(found[f"node{node}:{name}"] in ((name,) if wanted == ("own",) else wanted) for name in CAPACITY):
            return
        if time.monotonic() > deadline:
            raise Failed(f"node {node}: logs should be on {wanted}: {found}")
        time.sleep(0.2)


def await_read_caches(lab, node, wanted, seconds=20):
    """The hard disks of the node share the read cache of its cache disk evenly: so many bytes each, or whether they have any."""
    deadline = time.monotonic() + seconds
    while True:
        rows = lab.json("perf", "--seconds", "0.1")["caches"]
        sizes = [row["read_cache_bytes"] for row in rows if row["name"] in {f"node{node}:{name}" for name in CAPACITY}]
        if len(sizes) == len(CAPACITY) and len(set(sizes)) == 1 and type(wanted)(sizes[0]) == wanted:
            return
        if time.monotonic() > deadline:
            raise Failed(f"node {node}: read caches of {sizes} bytes")
        time.sleep(0.2)


def set_read_caches(lab):
    """The pool's setting counts at once, and is kept within bounds."""
    for words, wanted in (("16M", 16 << 20), ("none", False), ("all", True)):
        lab.s2d("pool", "set", "--read-cache", words)
        await_read_caches(lab, 1, wanted)
    if lab.s2d("pool", "set", "--read-cache", "1M", check=False).returncode == 0:
        raise Failed("a read cache of 1 MiB was taken")


def await_volume(lab, seconds=60):
    """All copies of the volume are in-sync again. (The cluster is not healthy: a cache disk has failed.)"""
    deadline = time.monotonic() + seconds
    while lab.json("volume", "show", "v")["health"] != "Healthy":
        if time.monotonic() > deadline:
            raise Failed(f"the volume does not heal: {lab.json('volume', 'show', 'v')}")
        time.sleep(0.2)


def await_retired(lab, name, seconds=20):
    deadline = time.monotonic() + seconds
    while lab.json("disk", "show", name)["state"] != "retired":
        if time.monotonic() > deadline:
            raise Failed(f"{name} is not retired")
        time.sleep(0.05)


def lost_logs(lab, node):
    return (lab.node_dir(node) / "s2dd.log").read_text(errors="replace").count("a log on a cache disk is lost")


def start_without_cache(lab, node, name, seconds):
    """The node starts, and its cache disk appears some seconds later: it is waited for."""
    lab.devcluster("kill", node)
    lost, path = lost_logs(lab, node), lab.node_dir(node) / "disks" / name
    path.rename(path.with_name("away"))
    starting = threading.Thread(target=lab.devcluster, args=("start", node))
    starting.start()
    time.sleep(seconds)
    path.with_name("away").rename(path)
    starting.join()
    await_volume(lab)
    if lost_logs(lab, node) != lost:
        raise Failed(f"a cache disk that came {seconds} s after its node was not waited for")


def count(writers):
    return sum(writer.writes for writer in writers)


def await_writes(lab, writers, more):
    wanted = count(writers) + more
    return lab.stalls(lambda: count(writers) >= wanted)


def judge(writers, socket, when):
    for writer in writers:
        if writer.errors:
            raise Failed(f"{when}: writer {writer.number} saw errors: {writer.errors[:3]}")
        wrong = writer.wrong(socket)
        if wrong:
            raise Failed(f"{when}: acknowledged writes are lost or wrong:\n  " + "\n  ".join(wrong[:10]))


def fail_caches(lab, writers, caches):
    """These cache disks {node: name} fail under load: writes go on, their disks go on with logs of their own, all heals."""
    together(*[partial(lab.devcluster, "fail-disk", node, name) for node, name in caches.items()])
    await_writes(lab, writers, 300)
    for node in caches:
        await_logs(lab, node, "own")
        await_read_caches(lab, node, False)
    await_volume(lab)


def run(lab):
    lab.devcluster("up", "--nodes", 3, "--disks", "hdd:2x1G,nvme:1x512M")
    for node in (1, 2, 3):
        await_logs(lab, node, "nvme0")
        await_read_caches(lab, node, True)
    set_read_caches(lab)
    lab.s2d("volume", "create", "v", "--size", "256M", "--resiliency", "mirror3")
    lab.s2d("file", "create", FILE, "--size", "64M")
    lab.s2d("file", "create", FIO_FILE, "--size", f"{FIO_MIB}M")
    socket = lab.node_dir(3) / "nbd.sock"
    writers = [Writer(socket, FILE, number, BLOCKS, 1) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    await_writes(lab, writers, 300)
    fail_caches(lab, writers, {1: "nvme0"})
    path = lab.node_dir(1) / "disks" / "nvme1"
    path.touch()
    subprocess.run(["truncate", "-s", "512M", path], check=True)
    lab.s2d("disk", "claim", path, node=1)
    await_logs(lab, 1, "nvme1")
    await_read_caches(lab, 1, True)
    await_writes(lab, writers, 300)
    await_volume(lab)
    fio = Fio(lab, 3, FIO_FILE, FIO_MIB, FIO_SECONDS, FIO_RATE)
    try:
        fail_caches(lab, writers, {1: "nvme1", 2: "nvme0"})
        fio.judge()
    finally:
        fio.stop()
    lab.s2d("disk", "retire", "node3:nvme0", "--yes")
    await_logs(lab, 3, "own")
    await_read_caches(lab, 3, False)
    await_writes(lab, writers, 300)
    await_retired(lab, "node3:nvme0")
    lab.s2d("disk", "claim", lab.node_dir(3) / "disks" / "nvme0", "--role", "cache", node=3)
    await_logs(lab, 3, "nvme0")
    await_read_caches(lab, 3, True)
    await_writes(lab, writers, 300)
    for writer in writers:
        writer.finish()
    judge(writers, socket, "after three cache disks failed")

    for node in (1, 2, 3):
        lab.devcluster("kill", node)
    for node in (1, 2, 3):
        lab.devcluster("start", node)
    await_volume(lab)
    for node in (1, 2):  # those that failed work again, and are bound in passes that follow
        await_logs(lab, node, "nvme0", "nvme1")
    start_without_cache(lab, 2, "nvme0", 3)
    judge(writers, socket, "after a restart of all")
    print(f"{count(writers)} acknowledged writes, three cache disks failed under them, two of them at once; one came, one was retired and came back")


def main():
    with tempfile.TemporaryDirectory(prefix="s2d-cache.", dir="/var/tmp") as folder:
        lab = Lab(pathlib.Path(folder) / "cluster")
        try:
            run(lab)
            return 0
        except (Failed, OSError, subprocess.SubprocessError, KeyError) as failure:
            print(f"FAILED: {failure!r}", flush=True)
            for log in sorted(lab.dir.glob("node*/s2dd.log")):
                print(f"--- {log.parent.name}", *log.read_text(errors="replace").splitlines()[-30:], sep="\n")
            return 1
        finally:
            lab.devcluster("down")


sys.exit(main())
