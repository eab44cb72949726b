#!/usr/bin/env python3
"""Rebuild on five real daemons, with a volume of dual parity (2+2) and a three-way mirror:

  disk   a disk fails under a client: a job says how far its rebuild is, never less than before; the columns go to several disks. In the
         middle it is paused, and the owner and the leader are killed: it goes on from where it was, and ends
  load   a disk fails under clients that leave the machine no rest: the rebuild keeps the share that s2dd --rebuild-floor says
  node   a node is lost for good, its disk retired, and it is evicted: what it held is rebuilt elsewhere

usage: rebuild.py [STEP…]
       rebuild.py --measure      what a client's 4 KiB writes take alone, next to a rebuild, and next to one that is not held back
"""
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from lab import Failed, Lab  # noqa: E402
from nbd_client import NbdClient, Writer  # noqa: E402

NODES = 5
MIB = 1 << 20
DATA = {"parity": 320, "copies": 64}  # MiB in each volume's file
CLIENTS = 8                           # at depth 1, each on a MiB of its own at the beginning of "parity"
FLOOR_MIB = 8                         # s2dd --rebuild-floor, as it is if nobody says otherwise


def fill(lab, volume, mib):
    client = NbdClient(lab.node_dir(lab.owner(volume) or 1) / "nbd.sock", f"{volume}/file")
    for at in range(mib):
        client.write(at * MIB, bytes([at % 251 + 1]) * MIB)
    client.close()


def read_back(lab, volume, mib, node, skip=0):
    """What fill() wrote, through another node."""
    client = NbdClient(lab.node_dir(node) / "nbd.sock", f"{volume}/file")
    for at in range(skip, mib):
        if client.read(at * MIB, MIB) != bytes([at % 251 + 1]) * MIB:
            raise Failed(f"{volume}: MiB {at} is not what was written")
    client.close()


class Timed(Writer):
    """Notes how long each write took."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.took = []

    def on_answer(self, begun, ended):
        self.took.append(ended - begun)


class Rebuilds:
    """Looks at the jobs as long as it lives: their progress must not fall."""

    def __init__(self, lab, node):
        self.lab, self.node = lab, node
        self.seen = {}    # id: list of (time, done, total, state)
        self.fell = []

    def look(self):
        """Those that have not ended."""
        jobs = [job for job in self.lab.json("job", "list", node=self.node) if job["kind"] == "rebuild"]
        for job in jobs:
            rows = self.seen.setdefault(job["id"], [])
            row = (time.monotonic(), job["done_bytes"], job["total_bytes"], job["state"])
            if rows and row[1] < rows[-1][1]:
                self.fell.append(f"job {job['id']} of {job['target']} fell from {rows[-1][1]} to {row[1]} bytes")
            if not rows or rows[-1][1:] != row[1:]:
                rows.append(row)
        if self.fell:
            raise Failed(self.fell[0])
        return [job for job in jobs if job["state"] in ("running", "paused")]

    def wait(self, condition, what, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition(self.look()):
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {seconds} s; jobs: {self.seen}")
            time.sleep(0.1)

    def of(self, volume):
        """The volume's job that has not ended; None: none."""
        return next((job for job in self.look() if job["target"] == volume), None)


def used(lab, node):
    """Extents in use, by disk."""
    return {f"{disk['node']}:{disk['name']}": disk["used_bytes"] for disk in lab.json("disk", "list", node=node)}


def fullest(lab, owner):
    """The node that holds the most, but for the owner."""
    held = used(lab, owner)
    return int(max((name for name in held if not name.startswith(f"node{owner}:")), key=held.get).partition(":")[0].removeprefix("node"))


def fail_disk(lab, victim):
    """The node's only disk; its columns can go to the others."""
    disk = next(disk for disk in lab.json("disk", "list") if disk["node"] == f"node{victim}" and disk["state"] == "ok")
    lab.devcluster("fail-disk", victim, disk["name"])


def disk_state(lab, asked, node):
    """The node's newest disk, as another node tells it."""
    return [disk["state"] for disk in lab.json("disk", "list", node=asked) if disk["node"] == f"node{node}"][-1]


def busy_clients(lab, node, count):
    clients = [Timed(lab.node_dir(node) / "nbd.sock", "parity/file", number, 256, 1) for number in range(count)]
    for client in clients:
        client.start()
    return clients


def judge(clients):
    for client in clients:
        client.finish()
    for client in clients:
        wrong = client.errors or client.wrong(client.path)
        if wrong:
            raise Failed(f"client {client.number}: {wrong[:3]}")


# ---- steps ----

def step_disk(lab):
    owner = lab.owner("parity")
    victim = fullest(lab, owner)
    watcher = next(node for node in range(1, NODES + 1) if node not in (owner, victim, lab.leader()))
    jobs, before = Rebuilds(lab, watcher), used(lab, watcher)
    clients = busy_clients(lab, watcher, CLIENTS)
    time.sleep(1)
    fail_disk(lab, victim)
    jobs.wait(lambda _: (job := jobs.of("parity")) and job["done_bytes"] > 0, "some progress")
    number = next(job for job, rows in jobs.seen.items() if rows[-1][1] > 0)
    lab.s2d("job", "pause", number, node=watcher)
    time.sleep(2)  # what was under way ends, and is told
    held = jobs.of("parity")
    time.sleep(4)
    if jobs.of("parity")["left_bytes"] != held["left_bytes"] or jobs.of("parity")["state"] != "paused":
        raise Failed(f"a paused rebuild goes on: {jobs.of('parity')}, before {held}")
    killed = {lab.owner("parity", node=watcher), lab.leader(node=watcher)} - {watcher}
    for node in killed:
        lab.devcluster("kill", node)
    for node in killed:
        lab.devcluster("start", node)
    lab.s2d("job", "resume", number, node=watcher)
    jobs.wait(lambda _: jobs.of("parity") is None, "the end of the rebuild")
    last = jobs.seen[number][-1]
    if last[3] != "done" or last[1] != last[2]:
        raise Failed(f"the job ended as {last}")
    states = len({row[1] for row in jobs.seen[number]})
    if not any(0 < row[1] < row[2] for row in jobs.seen[number]):
        raise Failed(f"the job never said that it is under way: {jobs.seen[number]}")
    judge(clients)
    grown = [name for name, now in used(lab, watcher).items() if now > before.get(name, 0)]
    if len(grown) < 2:
        raise Failed(f"only {grown} got columns of the disk that failed")
    read_back(lab, "parity", DATA["parity"], watcher, skip=CLIENTS)
    read_back(lab, "copies", DATA["copies"], watcher)
    replace(lab, victim)
    return (f"{last[2] // MIB} MiB onto {len(grown)} disks, {states} values of progress, paused and resumed, {len(killed)} daemons killed "
            f"in the middle; longest wait of a client {max(client.longest for client in clients):.1f} s")


def replace(lab, victim):
    """A new disk for the one that failed."""
    name = f"new{int(time.monotonic() * 1000)}"
    old = next(disk for disk in lab.json("disk", "list") if disk["node"] == f"node{victim}" and disk["state"] != "ok")
    lab.devcluster("new-disk", victim, name, "1G")
    lab.s2d("disk", "replace", f"node{victim}:{old['name']}", lab.node_dir(victim) / "disks" / name, "--yes", "--wait", node=victim, timeout=180)
    lab.wait_healthy(120)


def step_load(lab):
    owner = lab.owner("parity")
    victim = fullest(lab, owner)
    jobs = Rebuilds(lab, owner)
    clients = busy_clients(lab, owner, CLIENTS)
    time.sleep(2)
    begun = time.monotonic()
    fail_disk(lab, victim)
    jobs.wait(lambda _: jobs.of("parity") is not None, "a job")
    total = jobs.of("parity")["total_bytes"]
    # a lower share than that of the figure: the volume's rebuilds are two, and a busy machine is slower than its clock
    jobs.wait(lambda active: not active, "the end of the rebuilds under load", seconds=20 + 3 * total / FLOOR_MIB / MIB)
    took = time.monotonic() - begun
    judge(clients)
    replace(lab, victim)
    return f"{total / MIB / took:.0f} MiB/s next to {sum(len(client.took) for client in clients) / took:.0f} writes/s"


def step_node(lab):
    owner = lab.owner("parity")
    lost = fullest(lab, owner)
    watcher = next(node for node in range(1, NODES + 1) if node not in (owner, lost))
    jobs = Rebuilds(lab, watcher)
    disk = next(disk for disk in lab.json("disk", "list", node=watcher) if disk["node"] == f"node{lost}" and disk["state"] == "ok")
    lab.devcluster("off", lost)
    deadline = time.monotonic() + 30
    while next(node for node in lab.json("node", "list", node=watcher) if node["name"] == f"node{lost}")["state"] != "down":
        if time.monotonic() > deadline:
            raise Failed(f"node{lost} is not called down")
        time.sleep(0.1)
    lab.s2d("disk", "retire", f"node{lost}:{disk['name']}", "--yes", node=watcher)
    jobs.wait(lambda active: not active and disk_state(lab, watcher, lost) == "retired", "the end of the rebuilds")
    lab.s2d("node", "evict", f"node{lost}", "--yes", node=watcher)
    deadline = time.monotonic() + 60
    while lab.json("volume", "show", "parity", node=watcher)["health"] != "Healthy":
        if time.monotonic() > deadline:
            raise Failed(f"parity is {lab.json('volume', 'show', 'parity', node=watcher)}")
        time.sleep(0.2)
    read_back(lab, "copies", DATA["copies"], watcher)
    read_back(lab, "parity", DATA["parity"], watcher, skip=CLIENTS)
    return f"{len(jobs.seen)} volumes rebuilt without node{lost}"


STEPS = {"disk": step_disk, "load": step_load, "node": step_node}


# ---- measuring ----

def percentiles(took):
    cuts = statistics.quantiles(took, n=100)
    return f"{len(took):6} writes, p50 {cuts[49] * 1e3:6.2f} ms, p99 {cuts[98] * 1e3:6.2f} ms"


def measure(folder):
    """One client at depth 1; the rebuilds are long enough to see."""
    import os
    for floor, what in ((FLOOR_MIB, "a rebuild"), (4096, "a rebuild that is not held back")):
        os.environ["S2DD_OPTIONS"] = f"--rebuild-floor {floor}"
        lab = Lab(pathlib.Path(folder) / f"cluster{floor}")
        try:
            prepare(lab)
            owner = lab.owner("parity")
            [client] = busy_clients(lab, owner, 1)
            time.sleep(5)
            alone, client.took = client.took, []
            jobs, begun = Rebuilds(lab, owner), time.monotonic()
            fail_disk(lab, fullest(lab, owner))
            jobs.wait(lambda _: jobs.of("parity") is not None, "a job")
            total = jobs.of("parity")["total_bytes"]
            jobs.wait(lambda _: jobs.of("parity") is None, "its end")
            client.finish()
            print(f"alone                            {percentiles(alone)}")
            print(f"{what:32} {percentiles(client.took)}; {total / MIB / (time.monotonic() - begun):.0f} MiB/s", flush=True)
        finally:
            lab.devcluster("down")


def prepare(lab):
    lab.devcluster("up", "--nodes", NODES, "--disks", "ssd:1x1G")
    lab.s2d("volume", "create", "parity", "--size", "480M", "--resiliency", "parity2", "--columns", "2+2")
    lab.s2d("volume", "create", "copies", "--size", "160M")
    for volume, mib in DATA.items():
        lab.s2d("file", "create", f"{volume}/file", "--size", f"{mib}M")
        fill(lab, volume, mib)


def run(names, lab):
    try:
        prepare(lab)
        for name in names:
            print(f"{name}: {STEPS[name](lab)}", flush=True)
        return 0
    except (Failed, OSError, subprocess.SubprocessError, StopIteration) as failure:
        print(f"FAILED: {failure!r}", flush=True)
        for log in sorted(lab.dir.glob("node*/s2dd.log")):
            print(f"--- {log.parent.name}", *[line for line in log.read_text(errors="replace").splitlines() if " bus: " not in line][-20:], sep="\n")
        return 1
    finally:
        lab.devcluster("down")


def main():
    names = sys.argv[1:]
    if not set(names) <= set(STEPS) | {"--measure"}:
        print(__doc__.strip())
        return 2
    with tempfile.TemporaryDirectory(prefix="s2d-rebuild.", dir="/var/tmp") as folder:
        if "--measure" in names:
            measure(folder)
            return 0
        return run(names or list(STEPS), Lab(pathlib.Path(folder) / "cluster"))


if __name__ == "__main__":
    sys.exit(main())
