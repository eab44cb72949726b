#!/usr/bin/env python3
# by name only: tools/test faults
"""Faults on real daemons, seen by clients of NBD: no error, no acknowledged write lost, short stalls.

usage: faults.py [STEP…]        the steps: kill pause cut own all rot lease; default: all of them
       S2D_SOAK=SECONDS         how long fio runs on each node under kill, pause and cut (default 25 or 40)

kill pause cut  fio with verify=crc32c on node X's socket, while each other node in turn is killed, stopped for 10 s, cut off; X = 1, 2, 3
own             the same on X itself, with clients that reconnect
all             all daemons killed together under write load; what was acknowledged reads back
rot             one bit flipped in one copy: the read is right, the copy is repaired, an event says so
lease           the leader cut off with one node loses its right to serve before the others take over
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from lab import Failed, Lab  # noqa: E402
from nbd_client import BLOCK, NbdClient, Writer, stamp  # noqa: E402

SOAK = int(os.environ.get("S2D_SOAK", "0"))
FILE = "v/fio.raw"
FILE_MIB = 256


class Faults:
    def __init__(self, lab):
        self.lab = lab

    def setup(self):
        self.lab.devcluster("up", "--disks", "ssd:1x2G")
        self.lab.s2d("volume", "create", "v", "--size", "1G")
        self.lab.s2d("file", "create", FILE, "--size", f"{FILE_MIB}M")

    def socket(self, node):
        return self.lab.node_dir(node) / "nbd.sock"

    # ---- fio on X while the others suffer ----

    def fio(self, node, seconds):
        """Starts fio; it ends by itself."""
        log = self.lab.dir / f"fio-{node}"
        command = ["fio", "--name=verify", "--ioengine=nbd", f"--uri={self.lab.nbd_uri(node, FILE)}", "--rw=randrw",
                   "--bs=4k", "--iodepth=8", "--verify=crc32c", "--verify_backlog=512", "--time_based",
                   f"--runtime={seconds:.0f}", f"--size={FILE_MIB}M", "--output-format=json", f"--output={log}.json",
                   "--verify_fatal=1", "--randrepeat=0",
                   "--serialize_overlap=1"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.lab.dir), log

    def judge_fio(self, process, log):
        try:
            output, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed("fio hangs") from None
        if process.returncode != 0:
            raise Failed(f"fio failed ({process.returncode}): {output[-1500:]}")
        job = json.loads(pathlib.Path(f"{log}.json").read_text())["jobs"][0]
        if job["error"]:
            raise Failed(f"fio saw error {job['error']}")
        return max(job[kind]["lat_ns"]["max"] for kind in ("read", "write")) / 1e9, job["write"]["iops"]

    def hurt(self, how, node):
        """One fault and its end; the others are healthy before the next."""
        if how == "kill":
            self.lab.devcluster("kill", node)
            time.sleep(2)
            self.lab.devcluster("start", node)
        elif how == "pause":
            self.lab.devcluster("pause", node)
            time.sleep(10)
            self.lab.devcluster("resume", node)
        else:
            self.lab.devcluster("cut", node)
            time.sleep(5)
            self.lab.devcluster("heal", node)
        self.lab.wait_healthy(90)

    def under_fault(self, how):
        """fio runs for a set time on node X; as long as it does, the other nodes suffer in turn."""
        worst, limit = 0.0, 1.0 if how == "kill" else 3.5
        seconds = SOAK or (40 if how == "pause" else 25)
        for node in (1, 2, 3):
            others = [n for n in (1, 2, 3) if n != node]
            process, log = self.fio(node, seconds)
            faults = 0
            end = time.monotonic() + seconds - 12
            while faults < 2 or time.monotonic() < end:
                time.sleep(1)
                self.hurt(how, others[faults % 2])
                faults += 1
            stall, iops = self.judge_fio(process, log)
            worst = max(worst, stall)
            print(f"  {how}: {faults} times under fio on node{node}: no error, longest stall {stall:.2f} s, "
                  f"{iops:.0f} writes/s", flush=True)
        return f"longest stall {worst:.2f} s (wanted: {limit} s)"

    # ---- clients that reconnect ----

    def writers(self, node, count=4, blocks=400, seed=1):
        writers = [Writer(self.socket(node), FILE, number, blocks, seed) for number in range(count)]
        for writer in writers:
            writer.start()
        return writers

    def judge_writers(self, writers, node):
        for writer in writers:
            writer.finish()
        for writer in writers:
            if writer.errors:
                raise Failed(f"writer {writer.number} saw errors: {writer.errors[:3]}")
            wrong = writer.wrong(self.socket(node))
            if wrong:
                raise Failed("acknowledged writes are lost or wrong:\n  " + "\n  ".join(wrong[:10]))
        return sum(writer.writes for writer in writers)

    def own(self):
        """Node X itself is killed under its own clients."""
        total = 0
        for node in (1, 2, 3):
            writers = self.writers(node, seed=node)
            time.sleep(2)
            self.lab.devcluster("kill", node)
            time.sleep(2)
            self.lab.devcluster("start", node)
            self.lab.wait_healthy(90)
            time.sleep(2)
            total += self.judge_writers(writers, node % 3 + 1)
        return f"{total} acknowledged writes, all read back from another node"

    def all(self):
        """All power lost, more than once: each time at another moment of the load."""
        total = 0
        for round_number in range(3):
            writers = self.writers(round_number % 3 + 1, seed=10 + round_number)
            time.sleep(2 + round_number)
            kills = [threading.Thread(target=self.lab.devcluster, args=("kill", node)) for node in (1, 2, 3)]
            for kill in kills:
                kill.start()
            for kill in kills:
                kill.join()
            for node in (1, 2, 3):
                self.lab.devcluster("start", node)
            self.lab.wait_healthy(120)
            time.sleep(1)
            total += self.judge_writers(writers, (round_number + 1) % 3 + 1)
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
        deadline = time.monotonic() + 10
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

    # ---- leases ----

    def lease(self):
        """The owner is cut off: when the others serve, it must not answer any more, not even its own clients."""
        owner = self.lab.owner("v")
        other = owner % 3 + 1
        block = 5
        client = NbdClient(self.socket(owner), FILE, timeout=60)
        client.write(block * BLOCK, stamp(block, 1, 50))
        reads = []
        ended = threading.Event()

        def read_on():
            while not ended.is_set():
                try:
                    reads.append((time.monotonic(), client.read(block * BLOCK, BLOCK)))
                except OSError:
                    return

        self.lab.devcluster("cut", owner)
        reader = threading.Thread(target=read_on, daemon=True)
        reader.start()
        there = NbdClient(self.socket(other), FILE, timeout=60)
        there.write(block * BLOCK, stamp(block, 2, 50))
        written = time.monotonic()
        time.sleep(2)
        ended.set()
        self.lab.devcluster("heal", owner)
        reader.join(60)
        stale = [when for when, data in reads if when > written and data != stamp(block, 2, 50)]
        if stale:
            raise Failed(f"the cut-off owner answered {len(stale)} reads with old data after the new owner's write")
        self.lab.wait_healthy(90)
        there.close()
        client.close()
        return "the cut-off owner answered nothing after another had taken over"


def main():
    steps = sys.argv[1:] or ["own", "all", "rot", "lease", "kill", "pause", "cut"]
    with tempfile.TemporaryDirectory(prefix="s2d-faults.", dir="/var/tmp") as folder:
        lab = Lab(pathlib.Path(folder) / "cluster")
        faults = Faults(lab)
        failed = 0
        try:
            faults.setup()
            for step in steps:
                action = getattr(faults, step, None) or (lambda how=step: faults.under_fault(how))
                begun = time.monotonic()
                print(f"{step}: {action()} ({time.monotonic() - begun:.0f} s)", flush=True)
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            failed = 1
            print(f"FAILED: {failure}", flush=True)
            for log in sorted(lab.dir.glob("node*/s2dd.log")):
                lines = log.read_text(errors="replace").splitlines()
                print(f"--- {log.parent.name}", *lines[-int(os.environ.get("S2D_LINES", "40")):], sep="\n")
        finally:
            lab.devcluster("down")
    return failed


sys.exit(main())
