"""What the demo and the tests on real daemons share: a development cluster to hurt, and what to look at meanwhile."""
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Failed(Exception):
    """A step did not do what it should; the text says what was seen."""


def together(*calls):
    """Makes these calls beside each other and waits for all; the first that failed is raised."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        results = [pool.submit(call) for call in calls]
    for result in results:
        result.result()


class Lab:
    """A devcluster in a folder of its own."""

    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.bin = pathlib.Path(os.environ.get("S2D_BUILD", ROOT / "build")).resolve() / "bin"

    def devcluster(self, *arguments, timeout=300):
        done = subprocess.run([ROOT / "tools/devcluster", "--dir", self.dir, *map(str, arguments)], text=True,
                              capture_output=True, timeout=timeout)
        if done.returncode != 0:
            raise Failed(done.stderr.strip() or f"devcluster {arguments} failed")
        return done.stdout

    def node_dir(self, number):
        return self.dir / f"node{number}"

    def live_node(self):
        """The number of a node whose daemon answers."""
        for path in sorted(self.dir.glob("node*/api.sock")):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(str(path))
                except OSError:
                    continue
            return int(path.parent.name.removeprefix("node"))
        raise Failed("no daemon of the cluster answers")

    def s2d(self, *arguments, node=None, timeout=120, check=True):
        """Runs s2d on a node (None: any that answers); its standard output."""
        node = node or self.live_node()
        done = subprocess.run([self.bin / "s2d", "--node", self.node_dir(node) / "api.sock", *map(str, arguments)],
                              text=True, capture_output=True, timeout=timeout)
        if check and done.returncode != 0:
            raise Failed(f"s2d {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout if check else done

    def json(self, *arguments, node=None):
        return json.loads(self.s2d("--json", *arguments, node=node))

    def nbd_uri(self, node, export):
        return f"nbd+unix:///{export}?socket={self.node_dir(node)}/nbd.sock"

    def owner(self, volume, node=None):
        """The number of the node that owns a volume; 0: nobody now."""
        name = self.json("volume", "show", volume, node=node)["owner"]
        return int(name.removeprefix("node")) if name else 0

    def leader(self, node=None):
        """The number of the node that leads the cluster database; 0: nobody now."""
        name = self.json("cluster", "quorum", node=node)["leader"]
        return int(name.removeprefix("node")) if name else 0

    def wait_healthy(self, seconds=120):
        self.devcluster("wait", "--healthy", seconds, timeout=seconds + 60)

    def stalls(self, until):
        """Polls a condition until it is true; how long that took."""
        start = time.monotonic()
        while not until():
            if time.monotonic() - start > 120:
                raise Failed("nothing happened for 120 seconds")
            time.sleep(0.02)
        return time.monotonic() - start


class Guest:
    """A VM made from tools/guest-image, by its console log on whatever node it runs. See tools/guest-image for what it says."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name

    def logs(self):
        return sorted(self.lab.dir.glob(f"node*/vms/{self.name}/console.log"))

    def lines(self, path):
        try:
            return path.read_text(errors="replace").replace("\r", "").split("\n")[:-1]
        except OSError:
            return []

    def counts(self, pattern):
        """All numbers that lines of the pattern tell, of every node and incarnation."""
        found = []
        for path in self.logs():
            for line in self.lines(path):
                match = re.match(pattern, line)
                if match:
                    found.append(int(match[1]))
        return found

    def acknowledged(self):
        """The newest count that the guest said is on its disk."""
        return max(self.counts(r"TICK (\d+)") + self.counts(r"OK (?:write|verify|count|poweroff|reboot) (\d+)"), default=0)

    def boots(self):
        """(boot, count) of each time that the guest came up, in order."""
        boots = []
        for path in self.logs():
            for line in self.lines(path):
                match = re.match(r"GUEST up boot=(\d+) count=(\d+)", line)
                if match:
                    boots.append((int(match[1]), int(match[2])))
        return sorted(boots)

    def errors(self):
        return [line for path in self.logs() for line in self.lines(path) if line.startswith("ERROR")]

    def wait_boot(self, number, seconds):
        """Waits until the guest has come up `number` times; the count that it found on its disk then."""
        deadline = time.monotonic() + seconds
        while len(self.boots()) < number:
            if time.monotonic() > deadline:
                raise Failed(f"the guest did not come up in {seconds} seconds (boots so far: {self.boots()})")
            time.sleep(0.1)
        return self.boots()[number - 1][1]

    def wait_ticks(self, more, seconds):
        """Waits for `more` acknowledged counts from now on; returns the longest time between two looks at new ones."""
        start = last = time.monotonic()
        first = seen = self.acknowledged()
        longest = 0.0
        while seen < first + more:
            time.sleep(0.02)
            now, count = time.monotonic(), self.acknowledged()
            if count > seen:
                longest = max(longest, now - last)
                last, seen = now, count
            if now - start > seconds:
                raise Failed(f"the guest wrote {seen - first} of {more} counts in {seconds} seconds")
        return longest

    def console(self, node):
        """The socket of its serial port."""
        return self.lab.node_dir(node) / "vms" / self.name / "console.sock"

    def ask(self, node, command, seconds=60):
        """Gives a command on the console; the line that answers."""
        with socket.socket(socket.AF_UNIX) as console:
            console.settimeout(seconds)
            console.connect(str(self.console(node)))
            console.sendall(f"\n{command}\n".encode())
            text = ""
            while True:
                piece = console.recv(4096)
                if not piece:
                    raise Failed(f"the console closed before '{command}' was answered")
                text += piece.decode(errors="replace")
                match = re.search(rf"^(OK {command.split()[0]}.*|ERROR .*)\r?\n", text, re.MULTILINE)
                if match:
                    return match[1].strip()

    def node(self):
        """Where it runs, as the database says."""
        return int(self.lab.json("vm", "show", self.name)["node"].removeprefix("node"))


PF_EXITING = 4  # of a process's flags


def is_stopping(thread):
    """Whether a thread (its folder in /proc) is stopped, or will be before its next instruction: it has a stop of its own to take."""
    status = (thread / "status").read_text()
    pending = int(re.search(r"SigPnd:\s*(\w+)", status)[1], 16)
    return bool(pending & 1 << signal.SIGSTOP - 1) or re.search(r"State:\s*(\w)", status)[1] in "TZX"


class CopyCounter(threading.Thread):
    """Counts, many times a second, how many copies of a VM run at once: QEMU processes of its name that are not stopped."""

    def __init__(self, lab, name, every=0.01):
        super().__init__(daemon=True)
        self.lab, self.name, self.every = lab, name, every
        self.most = 0
        self.names = ""  # of those that ran at once
        self.looks = 0
        self.ended = threading.Event()

    def look(self):
        """The processes."""
        found = set()
        marker = os.fsencode(f"/vms/{self.name}/")
        folder = os.fsencode(f"{self.lab.dir}/")
        for process in pathlib.Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                command = (process / "cmdline").read_bytes()
                if b"qemu-system" not in command.split(b"\0")[0]:
                    continue
                cwd = os.fsencode(os.readlink(process / "cwd"))
                if not ((folder in command and marker in command) or (cwd.startswith(folder) and cwd.endswith(marker.rstrip(b"/")))):
                    continue
                stat = (process / "stat").read_text().rsplit(")", 1)[1].split()
                pending = re.search(r"ShdPnd:\s*(\w+)", (process / "status").read_text())
                # one that is stopped, exits, or was killed and has not noticed yet, runs no guest
                dying = int(stat[6]) & PF_EXITING or (pending and int(pending[1], 16) & 1 << signal.SIGKILL - 1)
                if stat[0] not in "TZX" and not dying and not all(map(is_stopping, (process / "task").iterdir())):
                    found.add(process.name)
            except OSError:
                continue
        return found

    def describe(self, name):
        process = pathlib.Path("/proc") / name
        try:
            started = int((process / "stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
            threads = "".join((task / "stat").read_text().rsplit(")", 1)[1].split()[0] for task in (process / "task").iterdir())
            return (f"{name} in {os.readlink(process / 'cwd')}, started {time.clock_gettime(time.CLOCK_BOOTTIME) - started:.1f} s before, "
                    f"threads {threads}, at {time.strftime('%H:%M:%S', time.gmtime())}")
        except OSError:
            return f"{name}, gone by now"

    def running(self):
        return len(self.look())

    def run(self):
        while not self.ended.is_set():
            seen = self.look()
            if len(seen) > 1:
                seen &= self.look()  # one look takes a while: the first may have ended before the second began
            if len(seen) > max(self.most, 1):
                self.names = " and ".join(sorted(self.describe(name) for name in seen))
            self.most = max(self.most, len(seen))
            self.looks += 1
            time.sleep(self.every)

    def finish(self):
        self.ended.set()
        self.join()
        return self.most
