#!/usr/bin/env python3
"""Faults on real daemons, seen by clients of NBD: no error, no acknowledged write lost, short stalls.

usage: faults.py [STEP…]        default: all steps but soak, about three minutes

kill    each node in turn is killed: fio with verify=crc32c runs on the two others, clients that reconnect on itself
pause   each node in turn is stopped for 4 s, under fio on the others
cut     each node in turn is cut off for 4 s, under fio on the others
all     all daemons killed together under write load, three times; what was acknowledged reads back
rot     one bit flipped in one copy: the read is right, the copy is repaired, an event says so, all is healthy again
lease   the owner is cut off, as leader and as a mere node: it answers nothing once another serves
pair    the leader, who is the owner, is cut off together with one node, of five: neither answers once the others serve
term    SIGTERM hands ownership over and ends the daemon within seconds
stuck   SIGTERM ends a daemon that is cut off, and has requests that wait, within seconds
anew    a volume is deleted and made again under its name while a node sleeps: that mounts the new one
twice   a second daemon on the same data waits for the lock, and refuses
guest   a guest on node 2 writes and verifies, from the first step on, and while the daemon of that node is killed and started:
        it sees no error, nothing is lost
soak    kill, pause (10 s) and cut in turn, of each other node, while fio runs for S2D_SOAK seconds (300) on node X;
        X = 1, 2, 3, or soak=X

What is wrong fails; how long clients had to wait is printed, next to what is wanted.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from functools import partial

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from fault_clients import BareGuest, Fio, Reader, TimedWriter, guest_image  # noqa: E402
from lab import Failed, Lab, together  # noqa: E402
from nbd_client import BLOCK, Book, NbdClient, stamp  # noqa: E402

STEPS = ["kill", "pause", "cut", "all", "rot", "lease", "pair", "term", "stuck", "anew", "twice", "guest"]
WANTED = {"kill": 1.0, "pause": 3.5, "cut": 3.5, "term": 1.0}  # seconds
FILE = "v/stamps.raw"
FILE_MIB = 64
FIO_MIB = 96
FIO_RATE = 400  # reads and writes a second: what is caught up afterwards takes time, too
HEAL_SECONDS = 120


class Faults:
    def __init__(self, lab):
        self.lab = lab
        self.clients = []  # to be stopped at the end, whatever happened
        self.bare_guest = None
        self.books = {}

    def setup(self, nodes=3):
        self.nodes = range(1, nodes + 1)
        self.lab.devcluster("up", "--nodes", nodes, "--disks", "ssd:1x2G")
        self.lab.s2d("volume", "create", "v", "--size", "1G")
        self.lab.s2d("file", "create", FILE, "--size", f"{FILE_MIB}M")

    def start_guest(self):
        self.lab.s2d("file", "import", guest_image(), "v/guest.raw")
        self.bare_guest = BareGuest(self.lab, 2, "v/guest.raw")
        self.clients.append(self.bare_guest)

    def tear_down(self):
        for client in self.clients:
            client.stop()
        self.lab.devcluster("down")

    def socket(self, node):
        return self.lab.node_dir(node) / "nbd.sock"

    def others(self, node):
        return [other for other in self.nodes if other != node]

    def own_by(self, node):
        if self.lab.owner("v") != node:
            self.lab.s2d("volume", "move", "v", "--to", f"node{node}")

    # ---- faults and clients ----

    def hurt(self, how, node, hold):
        """One fault and its end; the others are healthy before the next."""
        begin, end = {"kill": ("kill", "start"), "pause": ("pause", "resume"), "cut": ("cut", "heal")}[how]
        self.lab.devcluster(begin, node)
        time.sleep(hold)
        self.lab.devcluster(end, node)
        self.lab.wait_healthy(HEAL_SECONDS)

    def fio(self, node, seconds, rate=0):
        export = f"v/fio-{node}.raw"
        if f"fio-{node}.raw" not in self.lab.s2d("file", "ls", "v"):
            self.lab.s2d("file", "create", export, "--size", f"{FIO_MIB}M")
        self.clients.append(Fio(self.lab, node, export, FIO_MIB, seconds, rate))
        return self.clients[-1]

    def writers(self, node, first=0, count=4, blocks=400, seed=1):
        """Each writes blocks of its own; `first` keeps those of two nodes apart."""
        writers = [TimedWriter(self.socket(node), FILE, number, blocks, seed, self.books.setdefault(number, Book()))
                   for number in range(first, first + count)]
        for writer in writers:
            writer.start()
        return writers

    def judge_writers(self, writers, node):
        """All that was acknowledged reads back from the node; how many writes that were."""
        for writer in writers:
            writer.finish()
        for writer in writers:
            if writer.errors:
                raise Failed(f"writer {writer.number} saw errors: {writer.errors[:3]}")
            wrong = writer.wrong(self.socket(node))
            if wrong:
                raise Failed("acknowledged writes are lost or wrong:\n  " + "\n  ".join(wrong[:10]))
        return sum(writer.writes for writer in writers)

    # ---- one node suffers, the others have clients ----

    def each_suffers(self, how, hold):
        longest = 0.0
        for victim in self.nodes:
            fios = [self.fio(node, hold + 4, FIO_RATE) for node in self.others(victim)]
            writers = self.writers(victim, seed=victim) if how == "kill" else []
            time.sleep(1)
            self.hurt(how, victim, hold)
            stalls = [fio.judge() for fio in fios]
            told = "; ".join(f"node{fio.node} {stall:.2f} s, {iops:.0f} writes/s" for fio, (stall, iops) in zip(fios, stalls))
            longest = max(longest, *(stall for stall, _ in stalls))
            own = f"; its own clients: {self.judge_writers(writers, victim % 3 + 1)} writes, all there" if writers else ""
            print(f"  {how} node{victim}: no error; longest stall on {told}{own}", flush=True)
        return f"longest stall {longest:.2f} s (wanted: {WANTED[how]} s)"

    def kill(self):
        return self.each_suffers("kill", 1)

    def pause(self):
        return self.each_suffers("pause", 4)

    def cut(self):
        return self.each_suffers("cut", 4)

    def soak(self, only=None):
        seconds = int(os.environ.get("S2D_SOAK", "300"))
        longest = dict.fromkeys(("kill", "pause", "cut"), 0.0)
        faults = writes = 0
        for node in [int(only)] if only else self.nodes:
            end = time.monotonic() + seconds
            fio = self.fio(node, seconds, FIO_RATE)
            writers = self.writers(node, count=1, seed=faults + 1)
            turn = 0
            while time.monotonic() < end - 30:
                how, victim = ("kill", "pause", "cut")[turn % 3], self.others(node)[turn // 3 % 2]
                writers[0].longest = 0.0
                self.hurt(how, victim, {"kill": 2, "pause": 10, "cut": 5}[how])
                longest[how] = max(longest[how], writers[0].longest)
                turn += 1
            stall, iops = fio.judge()
            writes += self.judge_writers(writers, node % 3 + 1)
            faults += turn
            print(f"  soak on node{node}: {turn} faults in {seconds} s, no error; fio's longest stall {stall:.2f} s, "
                  f"{iops:.0f} writes/s", flush=True)
        told = ", ".join(f"{how} {stall:.2f} s (wanted: {WANTED[how]} s)" for how, stall in longest.items())
        return f"{faults} faults, {writes} stamped writes read back; longest stall of a single writer: {told}"

    def all(self):
        """All power lost, more than once: each time at another moment of the load."""
        total = 0
        for number in range(3):
            writers = self.writers(number % 3 + 1, seed=10 + number)
            time.sleep(2 + number)
            together(*[partial(self.lab.devcluster, "kill", node) for node in self.nodes])
            for node in self.nodes:
                self.lab.devcluster("start", node)
            self.lab.wait_healthy(HEAL_SECONDS)
            time.sleep(1)
            total += self.judge_writers(writers, (number + 1) % 3 + 1)
        return f"{total} acknowledged writes over 3 losses of all power, all read back"

    # ---- bit rot ----

    def rot(self):
        """The bit is flipped in every place of one node's disk where the block's contents are: log and extent."""
        block = FILE_MIB * 256 - 7
        data = stamp(block, 1, 99)
        owner = self.lab.owner("v")
        client = NbdClient(self.socket(owner), FILE)
        client.write(block * BLOCK, data)
        client.close()
        disk = self.lab.node_dir(owner) / "disks" / "ssd0"
        places = self.find(disk, data)
        if not places:
            raise Failed("the block is not on the owner's disk")
        with open(disk, "r+b", buffering=0) as file:
            for place in places:
                file.seek(place + 1000)
                byte = file.read(1)[0]
                file.seek(place + 1000)
                file.write(bytes([byte ^ 0x10]))
            os.fsync(file.fileno())
        client = NbdClient(self.socket(owner), FILE)
        if client.read(block * BLOCK, BLOCK) != data:
            raise Failed("the read returned rotten data")
        client.close()
        deadline = time.monotonic() + 30
        while not any(event["code"] == "heal" for event in self.lab.json("cluster", "events")):
            if time.monotonic() > deadline:
                raise Failed("no event tells of the repair")
            time.sleep(0.2)
        if not self.find(disk, data):
            raise Failed("the copy was not written again")
        self.lab.wait_healthy(30)  # what was repaired is no complaint
        return f"{len(places)} place(s) flipped, read right, healed, told"

    def find(self, disk, data):
        found = []
        with open(disk, "rb") as file:
            offset = 0
            while True:
                chunk = file.read(64 << 20)
                if not chunk:
                    return found
                at = chunk.find(data[:64])
                while at >= 0:
                    if at % BLOCK == 0 and chunk[at:at + BLOCK] == data:
                        found.append(offset + at)
                    at = chunk.find(data[:64], at + 1)
                offset += len(chunk)

    # ---- who may answer ----

    def cut_off(self, island):
        """The nodes of the island, the owner among them, are cut off together. Once the others have acknowledged a write, nothing that is
        asked on the island is answered until its network is back; then everything is. How long the others had to wait."""
        mainland = [node for node in self.nodes if node not in island]
        readers = [Reader(self.socket(node), FILE, 5) for node in island]
        writers = []
        for number, node in enumerate(island + mainland[:1]):
            writers += self.writers(node, first=2 * number, count=2)
        for reader in readers:
            reader.start()
        time.sleep(1)
        self.lab.devcluster("cut", *island)
        begun = time.monotonic()
        there = NbdClient(self.socket(mainland[-1]), FILE, timeout=120)
        there.write((FILE_MIB * 256 - 9) * BLOCK, stamp(0, 2, 50))
        served = time.monotonic()
        time.sleep(2)
        healed = time.monotonic()
        self.lab.devcluster("heal", *island)
        there.close()
        self.lab.wait_healthy(HEAL_SECONDS)
        for client in readers + writers:
            client.finish()
        # What had been asked before may rightly be answered at any time before the others served, and be seen late by us.
        wrong = [f"{type(client).__name__} at {asked - served:.3f} s" for client in readers + writers[:2 * len(island)]
                 for asked, answered in client.answers if asked > served and answered < healed]
        if wrong:
            raise Failed(f"{len(wrong)} requests on the cut-off side were answered after the others served: {wrong[:3]}")
        for client in readers + writers:
            if not client.answers or client.answers[0][0] > begun or client.answers[-1][1] < healed:
                raise Failed(f"a {type(client).__name__} was not served before the cut and after it")
        self.judge_writers(writers, mainland[0])
        return served - begun

    def lease(self):
        stalls = []
        for is_leader in (True, False):
            leader = self.lab.leader()
            owner = leader if is_leader else leader % len(self.nodes) + 1
            self.own_by(owner)
            stalls.append(self.cut_off([owner]))
        return f"nothing answered; the others served after {stalls[0]:.1f} s (of a leader), {stalls[1]:.1f} s (of a mere owner)"

    def pair(self):
        """In a cluster of its own."""
        faults = Faults(Lab(self.lab.dir.parent / "five"))
        try:
            faults.setup(5)
            leader = faults.lab.leader()
            faults.own_by(leader)
            stall = faults.cut_off([leader, leader % 5 + 1])
        except Failed:
            tell_logs(faults.lab)
            raise
        finally:
            faults.tear_down()
        return f"nothing answered by the two; the other three served after {stall:.1f} s"

    # ---- a daemon's end and its beginning ----

    def term(self):
        leader = self.lab.leader()
        self.own_by(leader)
        writers = []
        for number, node in enumerate(self.others(leader) + [leader]):
            writers += self.writers(node, first=2 * number, count=2)
        time.sleep(2)
        begun = time.monotonic()
        self.lab.devcluster("stop", leader)  # refuses after 30 s
        took = time.monotonic() - begun
        time.sleep(1)
        if self.lab.owner("v") in (0, leader):
            raise Failed("the volume was not handed over")
        self.lab.devcluster("start", leader)
        self.lab.wait_healthy(HEAL_SECONDS)
        writes = self.judge_writers(writers, leader % 3 + 1)
        stall = max(writer.longest for writer in writers[:4])
        return (f"stopped in {took:.1f} s, longest stall of the others {stall:.2f} s (wanted: {WANTED['term']} s), "
                f"{writes} writes, all there")

    def stuck(self):
        """Cut off, the owner can end none of its requests; they do not keep it from ending itself."""
        self.own_by(1)
        writers = self.writers(1, count=1, seed=31)
        time.sleep(1)
        self.lab.devcluster("cut", 1)
        time.sleep(4)
        begun = time.monotonic()
        self.lab.devcluster("stop", 1)  # fails after 30 seconds
        took = time.monotonic() - begun
        self.lab.devcluster("heal", 1)
        self.lab.devcluster("start", 1)
        self.lab.wait_healthy(HEAL_SECONDS)
        writes = self.judge_writers(writers, 2)
        if took > 20:
            raise Failed(f"the daemon took {took:.1f} s to stop")
        return f"the daemon stopped in {took:.1f} s; {writes} writes before and after, all there"

    def mounted(self, node, volume, seconds=20):
        path = self.lab.node_dir(node) / "clusterstorage" / volume
        end = time.monotonic() + seconds
        while not os.path.ismount(path):
            if time.monotonic() > end:
                raise Failed(f"volume {volume} is not mounted on node{node}")
            time.sleep(0.1)
        return path

    def anew(self):
        """A node that slept wakes to another volume of a name that it has mounted."""
        self.lab.s2d("volume", "create", "w", "--size", "64M")
        self.mounted(3, "w")
        self.lab.devcluster("pause", 3)
        time.sleep(4)
        self.lab.s2d("--yes", "volume", "delete", "w")
        self.lab.s2d("volume", "create", "w", "--size", "64M")
        (self.mounted(1, "w") / "new").write_text("new")
        self.lab.devcluster("resume", 3)
        self.lab.wait_healthy(HEAL_SECONDS)
        end = time.monotonic() + 20
        while not os.path.exists(self.lab.node_dir(3) / "clusterstorage/w/new"):
            if time.monotonic() > end:
                raise Failed("node3 still has the deleted volume mounted")
            time.sleep(0.1)
        self.lab.s2d("--yes", "volume", "delete", "w")
        return "it is mounted there, and the deleted one is not"

    def twice(self):
        folder = self.lab.node_dir(1)
        begun = time.monotonic()
        done = subprocess.run([self.lab.bin / "s2dd", "--dir", folder, "--name", "node1", "--listen", "127.0.0.1:17800"],
                              capture_output=True, text=True, timeout=120)
        took = time.monotonic() - begun
        if done.returncode == 0 or "another s2dd works" not in done.stderr:
            raise Failed(f"a second daemon on the same data ended with {done.returncode}: {done.stderr[-300:]}")
        if took < 5:
            raise Failed(f"it did not wait for the lock: it was gone after {took:.1f} s")
        self.lab.s2d("cluster", "health", node=1)  # the first one has not noticed
        return f"refused after {took:.0f} s"

    # ---- a guest whose own node's daemon dies ----

    def guest(self):
        guest = self.bare_guest
        guest.wait_boot(1, 240)
        guest.ask(2, "rate 5")
        stalls = []
        for owner in (2, 3):  # its node's daemon dies as the owner, and as one that redirects
            self.own_by(owner)
            guest.wait_ticks(50, 120)
            self.lab.devcluster("kill", 2)
            begun = time.monotonic()
            time.sleep(1)
            self.lab.devcluster("start", 2)
            guest.wait_ticks(50, 120)
            stalls.append(time.monotonic() - begun)
            self.lab.wait_healthy(HEAL_SECONDS)
            seen = guest.acknowledged()
            answer = guest.check()
            if int(answer.split()[-1]) < seen:
                raise Failed(f"the guest had acknowledged {seen}, and verifies {answer}")
        return f"{answer}; on after {stalls[0]:.1f} and {stalls[1]:.1f} s, one of them the daemon's absence; no error"


def tell_logs(lab):
    for log in sorted(lab.dir.glob("node*/s2dd.log")):
        lines = log.read_text(errors="replace").splitlines()
        print(f"--- {log.parent.name}", *lines[-40:], sep="\n", flush=True)


def run(faults, step):
    name, _, argument = step.partition("=")
    begun = time.monotonic()
    told = getattr(faults, name)(*[argument] if argument else [])
    print(f"{step}: {told} ({time.monotonic() - begun:.0f} s)", flush=True)


def main():
    steps = sys.argv[1:] or STEPS
    if [step for step in steps if step.partition("=")[0] not in STEPS + ["soak"]]:
        print(__doc__.strip())
        return 0 if steps in (["-h"], ["--help"]) else 2
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="s2d-faults.", dir="/var/tmp") as folder:
        faults = Faults(Lab(pathlib.Path(folder) / "cluster"))
        try:
            faults.setup()
            if "guest" in steps:
                faults.start_guest()
            for step in steps:
                run(faults, step)
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            print(f"FAILED: {failure}", flush=True)
            tell_logs(faults.lab)
            return 1
        finally:
            faults.tear_down()
    print(f"all as it should be, in {time.monotonic() - begun:.0f} s")
    return 0


sys.exit(main())
