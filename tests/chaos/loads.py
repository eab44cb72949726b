"""What runs while the cluster is hurt. Each load is a thread or process that goes on until finish(), which returns a line of figures and
raises Failed when the load saw something that must not be."""
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

from lab import Failed, Guest
from nbd_client import BLOCK, NbdClient, NbdError, Writer, stamp

HERE = pathlib.Path(__file__).resolve().parent
STAMPS = "blocks/stamps"      # the file of the stamped blocks
STAMPS_PER_WRITER = 600
FIO_MIB = 64
FIO_BLOCKS = ("4k", "16k", "128k")
FIO_IOPS = (300, 100, 20)
FIO_SECONDS = 20              # of a round
END_SECONDS = 120             # a load that does not end in that time hangs
GUEST_DISK = "blocks/guest.raw"


class PacedWriter(Writer):
    """A writer that leaves the machine to others, and notes when writes were slow."""
    timeout = 600  # never gives a write up: what it gave up could still happen, after a later one

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.issued = {}  # block → the newest version under way
        self.stalls = []  # (begun, ended) of writes of more than 0.2 s

    def on_write(self, block, version):
        self.issued[block] = version

    def on_answer(self, begun, ended):
        if ended - begun > 0.2:
            self.stalls.append((begun, ended))
        time.sleep(0.01)


class Reader(threading.Thread):
    """Reads what the others write, on another node than theirs: never older than what was acknowledged before the read began."""

    def __init__(self, path, writers, seed):
        super().__init__(daemon=True)
        self.path, self.writers = path, writers
        self.random = random.Random(seed)
        self.seen = {}
        self.reads = 0
        self.found = []
        self.ended = threading.Event()

    def look(self, client):
        writer = self.random.choice(self.writers)
        block = writer.first + self.random.randrange(writer.count)
        oldest = max(writer.acknowledged.get(block, 0), self.seen.get(block, 0))
        data = client.read(block * BLOCK, BLOCK)
        _, version, number = struct.unpack(">QQQ", data[:24])
        if version == 0:
            right = data == bytes(BLOCK)
        else:
            right = number == writer.number and data == stamp(block, version, number)
        if not right or not oldest <= version <= writer.issued.get(block, 0):
            self.found.append(f"block {block} of writer {writer.number} reads as version {version}{'' if right else ', damaged'}; it is "
                              f"from {oldest} (acknowledged or seen) to {writer.issued.get(block, 0)} (issued)")
        self.seen[block] = max(oldest, version)
        self.reads += 1

    def run(self):
        client = None
        while not self.ended.is_set():
            try:
                client = client or NbdClient(self.path, STAMPS, timeout=600)
                self.look(client)
            except NbdError as error:
                if "refused" not in str(error):
                    self.found.append(f"a read failed: {error}")
                client = None
            except OSError:
                client = None  # the daemon has gone
                time.sleep(0.05)
            time.sleep(0.01)
        if client:
            client.close()


class Stamps:
    """A writer and a reader on each node, which reconnect when their daemon dies."""
    name = "stamped blocks"

    def __init__(self, lab, nodes, seed):
        self.lab = lab
        sockets = [lab.node_dir(node) / "nbd.sock" for node in range(1, nodes + 1)]
        lab.s2d("file", "create", STAMPS, "--size", nodes * STAMPS_PER_WRITER * BLOCK)
        self.writers = [PacedWriter(path, STAMPS, number, STAMPS_PER_WRITER, seed) for number, path in enumerate(sockets)]
        self.readers = [Reader(path, self.writers, seed + number) for number, path in enumerate(sockets)]

    def start(self):
        for thread in self.writers + self.readers:
            thread.start()

    def longest_stall(self, since, until, node):
        """The longest wait for a write that began in that time, on other nodes than the one that was hurt."""
        return max((end - begun for number, writer in enumerate(self.writers) if number + 1 != node
                    for begun, end in list(writer.stalls) if since - 0.1 <= begun < until), default=0.0)

    def found(self):
        for writer in self.writers:
            if writer.errors:
                raise Failed(f"the writer on node{writer.number + 1} saw errors: {writer.errors[:3]}")
        for number, reader in enumerate(self.readers):
            if reader.found:
                raise Failed(f"the reader on node{number + 1}: {reader.found[0]}")

    def finish(self):
        for thread in self.writers + self.readers:
            thread.ended.set()
        for thread in self.writers + self.readers:
            thread.join(END_SECONDS)
            if thread.is_alive():
                raise Failed("a request for a stamped block was never answered")
        self.found()
        return f"{sum(writer.writes for writer in self.writers)} writes, {sum(reader.reads for reader in self.readers)} reads"

    def check(self):
        """Every acknowledged write, through each writer's next node."""
        for number, writer in enumerate(self.writers):
            wrong = writer.wrong(self.writers[(number + 1) % len(self.writers)].path)
            if wrong:
                raise Failed("acknowledged writes are lost or wrong:\n  " + "\n  ".join(wrong[:10]))
        return f"{sum(len(writer.acknowledged) for writer in self.writers)} blocks read back"


class Rounds(threading.Thread):
    """A load that goes round after round (round(), a subclass's) until it is told to end or one fails."""
    end_seconds = END_SECONDS

    def __init__(self):
        super().__init__(daemon=True)
        self.failure = None
        self.ended = threading.Event()

    def run(self):
        try:
            while not self.ended.is_set():
                self.round()
        except (Failed, OSError, ValueError, KeyError) as failure:
            self.failure = failure

    def found(self):
        if self.failure:
            raise Failed(str(self.failure))

    def finish(self):
        self.ended.set()
        self.join(self.end_seconds)
        alive = self.is_alive()
        self.stop()
        if alive:
            raise Failed(f"{self.name} hangs")
        self.found()
        return self.figures()

    def stop(self):
        """What it started ends, at once."""

    def check(self):
        """Nothing to look at after the end."""


class Fio(Rounds):
    """fio with verify=crc32c on one node's NBD socket, in rounds, through qemu-storage-daemon: a client that connects again by itself when its
    daemon dies, as a VM's disk does."""
    end_seconds = FIO_SECONDS + END_SECONDS

    def __init__(self, lab, node):
        super().__init__()
        self.lab, self.node = lab, node
        self.name = f"fio on node{node}"
        self.file = f"fio{node}.raw"
        self.socket = lab.dir / f"fio{node}.sock"
        self.bridge = None
        self.rounds, self.writes, self.bytes, self.longest = 0, 0, 0, 0.0
        self.process = None
        lab.s2d("file", "create", f"blocks/{self.file}", "--size", f"{FIO_MIB}M")

    def start(self):
        path = self.lab.node_dir(self.node) / "nbd.sock"
        self.bridge = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev",
             f"driver=nbd,node-name=disk,server.type=unix,server.path={path},export=blocks/{self.file},reconnect-delay=600,open-timeout=30",
             "--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=16",
             "--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.lab.dir / f"fio{self.node}-bridge.log").open("w"))
        deadline = time.monotonic() + 30
        while not self.socket.exists():
            if self.bridge.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"qemu-storage-daemon does not reach node{self.node}: {self.bridge_log()}")
            time.sleep(0.05)
        super().start()

    def bridge_log(self):
        return (self.lab.dir / f"fio{self.node}-bridge.log").read_text(errors="replace").strip()[-500:]

    def round(self):
        row = (self.node - 1) % len(FIO_BLOCKS)
        output = self.lab.dir / f"fio{self.node}.json"
        command = ["fio", "--name=verify", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={self.socket}", "--rw=randrw",
                   f"--bs={FIO_BLOCKS[row]}", "--iodepth=4", "--verify=crc32c", "--verify_backlog=128", "--verify_fatal=1",
                   "--time_based", f"--runtime={FIO_SECONDS}", f"--size={FIO_MIB}M", f"--rate_iops={FIO_IOPS[row]}",
                   "--randrepeat=0", "--serialize_overlap=1", "--output-format=json", f"--output={output}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.lab.dir)
        text, _ = self.process.communicate()
        if self.process.returncode != 0:
            raise Failed(f"{self.name} failed ({self.process.returncode}): {text[-800:]} {self.bridge_log()}")
        job = json.loads(output.read_text())["jobs"][0]
        if job["error"]:
            raise Failed(f"{self.name} saw error {job['error']}")
        self.rounds += 1
        self.writes += job["write"]["total_ios"]
        self.bytes += job["write"]["io_bytes"]
        self.longest = max(self.longest, *(job[kind]["lat_ns"]["max"] / 1e9 for kind in ("read", "write")))

    def figures(self):
        return f"{self.writes} writes ({self.bytes >> 20} MiB) verified in {self.rounds} rounds, longest wait {self.longest:.1f} s"

    def stop(self):
        for process in (self.process, self.bridge):
            if process and process.poll() is None:
                process.kill()
                process.wait()


class FileWork:
    """exerciser.py on one node's mount."""

    def __init__(self, lab, node, nodes, seed):
        self.lab, self.node, self.other = lab, node, node % nodes + 1
        self.name = f"files on node{node}"
        self.seed = seed
        self.model = lab.dir / f"model{node}"
        self.process = None

    def root(self, node):
        return self.lab.node_dir(node) / "clusterstorage/files" / f"work{self.node}"

    def start(self):
        self.root(self.node).mkdir()
        self.process = subprocess.Popen([sys.executable, "-B", HERE / "exerciser.py", "run", self.root(self.node), self.model, str(self.seed)],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def found(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name}: {self.process.stdout.read().strip()[-1500:]}")

    def finish(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            output, _ = self.process.communicate(timeout=END_SECONDS + 60)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name}: a call never returned") from None
        if self.process.returncode != 0:
            raise Failed(f"{self.name}: {output.strip()[-1500:]}")
        figures = json.loads(output.strip().splitlines()[-1])
        return (f"{sum(figures['calls'].values())} calls, {figures['interrupted']} cut short with their mount, "
                f"longest {figures['longest']:.1f} s")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()

    def check(self):
        done = subprocess.run([sys.executable, "-B", HERE / "exerciser.py", "check", self.root(self.other), self.model],
                              capture_output=True, text=True, timeout=END_SECONDS)
        if done.returncode != 0:
            raise Failed(f"{self.name}, seen from node{self.other}: {(done.stdout + done.stderr).strip()[-1500:]}")
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        return f"{figures['files']} files ({figures['bytes'] >> 10} KiB) are the same on node{self.other}"


class Copies(Rounds):
    """cp -r of a folder through one node's mount, diff -r through another's, again and again."""
    name = "cp -r, diff -r"
    SOURCE = HERE.parent.parent / "s2d/base"

    def __init__(self, lab, nodes, seed, lives):
        super().__init__()
        self.lab, self.nodes, self.lives = lab, nodes, lives
        self.random = random.Random(seed)
        self.rounds, self.done, self.interrupted = 0, 0, 0
        self.source = lab.dir / "source"  # the tree may change while this runs
        shutil.copytree(self.SOURCE, self.source)

    def mount(self, node):
        return self.lab.node_dir(node) / "clusterstorage/files"

    def life(self, node):
        """Names the node's mount as it is now; None: it is not there (yet)."""
        try:
            here = os.stat(self.mount(node)).st_dev
            return (self.lives(node), here) if os.path.ismount(self.mount(node)) else None
        except OSError:
            return None

    def command(self, node, *command):
        """Runs it; False when the node's daemon, and so the mount, was replaced meanwhile."""
        before = self.life(node)
        if before is None:
            return False
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode == 0:
            return True
        time.sleep(0.5)
        if self.life(node) != before:
            self.interrupted += 1
            return False
        raise Failed(f"{' '.join(map(str, command))} on node{node}: {(done.stdout + done.stderr).strip()[:500]}")

    def round(self):
        here, there = self.random.sample(range(1, self.nodes + 1), 2)
        self.rounds += 1
        name = f"copy{self.rounds}"  # what was cut short is left behind, and its name with it
        if (self.command(here, "cp", "-r", self.source, self.mount(here) / name)
                and self.command(there, "diff", "-r", self.source, self.mount(there) / name)
                and self.command(there, "rm", "-r", self.mount(there) / name)):
            self.done += 1
        self.ended.wait(1)

    def figures(self):
        return f"{self.done} times the same, {self.interrupted} cut short with a mount"


class Vm:
    """A guest that writes counts to its disk, and finds them all each time that it boots."""
    name = "guest"

    def __init__(self, lab, image):
        self.lab = lab
        self.guest = Guest(lab, "guest")
        lab.s2d("file", "import", image, GUEST_DISK)
        lab.s2d("vm", "create", "guest", "--memory", "192M", "--vcpus", "1", "--generation", "1", "--disk", GUEST_DISK)

    def start(self):
        self.lab.s2d("vm", "start", "guest")

    def found(self):
        errors = self.guest.errors()
        if errors:
            raise Failed(f"the guest says: {errors[0]}")
        self.lost_counts()

    def lost_counts(self):
        """What a boot found is at least what an earlier one had acknowledged."""
        told = {}
        for path in self.guest.logs():
            boot = 0
            for line in self.guest.lines(path):
                words = line.split()
                if line.startswith("GUEST up"):
                    boot = int(words[2].removeprefix("boot="))
                elif words[:1] == ["TICK"]:
                    told[boot] = max(told.get(boot, 0), int(words[1]))
        newest = 0
        for boot, count in self.guest.boots():
            newest = max([newest] + [ticks for number, ticks in told.items() if number < boot])
            if count < newest:
                raise Failed(f"boot {boot} of the guest found count {count}; {newest} was acknowledged before")

    def finish(self):
        """It must be up, or come up, and then write and verify."""
        deadline = time.monotonic() + 480  # a slow machine boots it slowly
        while True:
            try:
                node = self.guest.node()
                before = self.guest.acknowledged()
                self.guest.wait_ticks(3, 60)
                answer = self.guest.ask(node, "verify", 60)
                break
            except (Failed, OSError, ValueError) as failure:
                if time.monotonic() > deadline:
                    raise Failed(f"the guest does not answer: {failure}") from None
                time.sleep(1)
        if not answer.startswith("OK"):
            raise Failed(f"the guest says: {answer}")
        self.found()
        self.lab.s2d("vm", "kill", "guest", "--yes")
        return f"{max(before, self.guest.acknowledged())} counts acknowledged, {len(self.guest.boots())} boots; {answer}"

    def check(self):
        return None
