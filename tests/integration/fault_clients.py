"""Clients that live through faults, for faults.py: a reader, fio, and a QEMU guest. Plain writers are in nbd_client.py."""
import json
import pathlib
import subprocess
import threading
import time

from lab import ROOT, Failed, Guest
from nbd_client import BLOCK, NbdClient, Writer


class TimedWriter(Writer):
    """Remembers when each write that was acknowledged began and ended."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.answers = []

    def on_answer(self, begun, ended):
        self.answers.append((begun, ended))


class Reader(threading.Thread):
    """Reads one block over and over, and remembers when each read that was answered began and ended."""

    def __init__(self, path, export, block):
        super().__init__(daemon=True)
        self.client = NbdClient(path, export, timeout=120)
        self.block = block
        self.answers = []  # (begun, ended)
        self.failure = None
        self.ended = threading.Event()

    def run(self):
        while not self.ended.is_set():
            begun = time.monotonic()
            try:
                self.client.read(self.block * BLOCK, BLOCK)
            except OSError as failure:
                self.failure = failure
                return
            self.answers.append((begun, time.monotonic()))
            time.sleep(0.002)  # one read at a time is enough of a question

    def finish(self):
        self.ended.set()
        self.join(120)
        if self.failure or self.is_alive():
            raise Failed(f"a read was not answered: {self.failure or 'it hangs'}")
        self.client.close()


class Fio:
    """Random reads and writes with verification, for a set time; it ends by itself."""

    def __init__(self, lab, node, export, size_mib, seconds, rate=0):
        """rate: at most so many reads and so many writes a second; 0: as many as it can."""
        self.log = lab.dir / f"fio-{node}.json"
        self.node = node
        self.process = subprocess.Popen(
            ["fio", "--name=verify", "--ioengine=nbd", f"--uri={lab.nbd_uri(node, export)}", "--rw=randrw", "--bs=4k",
             "--iodepth=8", "--verify=crc32c", "--verify_backlog=512", "--verify_fatal=1", "--time_based",
             f"--runtime={seconds:.0f}", f"--size={size_mib}M", "--randrepeat=0", "--serialize_overlap=1",
             "--output-format=json", f"--output={self.log}"] + ([f"--rate_iops={rate},{rate}"] if rate else []),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=lab.dir)

    def judge(self):
        """(longest wait of a request in seconds, writes a second); Failed if any request failed."""
        try:
            output, _ = self.process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed(f"fio on node{self.node} hangs") from None
        if self.process.returncode != 0:
            raise Failed(f"fio on node{self.node} failed ({self.process.returncode}): {output[-1500:]}")
        job = json.loads(self.log.read_text())["jobs"][0]
        if job["error"]:
            raise Failed(f"fio on node{self.node} saw error {job['error']}")
        return max(job[kind]["lat_ns"]["max"] for kind in ("read", "write")) / 1e9, job["write"]["iops"]

    def stop(self):
        self.process.kill()
        self.process.wait()


class BareGuest(Guest):
    """The tiny guest in a QEMU of our own, whose disk is an export of one node: no VM of the cluster."""

    def __init__(self, lab, node, export):
        super().__init__(lab, "bare")
        self.folder = lab.dir / "bare-guest"
        self.folder.mkdir()
        disk = {"driver": "nbd", "node-name": "disk", "export": export, "reconnect-delay": 120, "cache": {"direct": True},
                "server": {"type": "unix", "path": str(lab.node_dir(node) / "nbd.sock")}}
        self.log = open(self.folder / "qemu.log", "wb")
        self.process = subprocess.Popen(
            ["nice", "-n", "5", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "pc", "-accel", "tcg", "-m", "192",
             "-display", "none", "-blockdev", json.dumps(disk), "-device", "virtio-blk-pci,drive=disk,werror=report,rerror=report",
             "-chardev", f"socket,id=console,path={self.console(node)},server=on,wait=off,logfile={self.folder}/console.log",
             "-serial", "chardev:console"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def logs(self):
        return [self.folder / "console.log"]

    def console(self, node):
        return self.folder / "console.sock"

    def check(self):
        """It still runs, was not restarted, saw no error, and reads back every count that it wrote."""
        if self.process.poll() is not None:
            raise Failed(f"QEMU ended: {(self.folder / 'qemu.log').read_text(errors='replace')[-500:]}")
        answer = self.ask(0, "verify")
        if not answer.startswith("OK") or self.errors() or len(self.boots()) != 1:
            raise Failed(f"the guest says: {answer} {self.errors()[:3]}, boots {self.boots()}")
        return answer

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def guest_image():
    done = subprocess.run([ROOT / "tools/guest-image"], capture_output=True, text=True, check=True)
    return pathlib.Path(done.stdout.strip().splitlines()[-1])
