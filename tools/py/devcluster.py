#!/usr/bin/env python3
"""A cluster of real daemons on this machine, each node in a network namespace of its own.

usage: devcluster [--dir D] COMMAND …

  up [--nodes N] [--disks ssd:2x2G,hdd:4x4G] [--extent 16M] [--preallocate] [--no-pool] [--no-wait]
                          start (or restart) it: pool and disks included; returns when it is usable
  down                    stop everything and remove every trace, data included
  status                  what runs
  wait [--healthy] [SECONDS]
                          until the cluster answers (--healthy: and is Healthy); default 60 seconds
  kill N | stop N         SIGKILL | SIGTERM for node N's daemon
  start N                 start it again on the same data
  pause N | resume N      SIGSTOP | SIGCONT
  off N                   the whole host dies: daemon, keepers and QEMUs at once
  cut N… | heal N…        network down (no resets) | up; several nodes that are cut off together reach each other
  fail-disk N DISK        I/O errors from now on, under a running node
  slow-disk N DISK        it is as slow as a hard disk, until its daemon ends
  wipe-disk N DISK        its contents are destroyed under a running node
  new-disk N DISK SIZE    an empty disk is put in; it belongs to no pool yet
  env                     shell lines: S2D_NODE, S2D_DIR, PATH with the built s2d

--dir D stands before or after COMMAND; default /var/tmp/s2d-dev, and not on a tmpfs. Node N is reached by path:
D/nodeN/{api.sock,nbd.sock,s2dd.log}, disks D/nodeN/disks/ssd0 …, volumes D/nodeN/clusterstorage/VOLUME.
S2D_BUILD names another build folder than build/ of this tree.
"""
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PORT = 7800
USABLE_SECONDS = 60
COLD_START_GRACE_MS = 5000
VM_RESTART_DELAY_MS = 3000


class Refused(Exception):
    """What, why, what to do: for the user."""


def run(*command, **options):
    """Runs a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Refused(f"{shlex.join(str(part) for part in command)}: "
                      f"{(done.stderr or done.stdout).strip() or f'exit status {done.returncode}'}")
    return done.stdout


def quiet(*command):
    """Runs a command that may fail."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True).returncode == 0


def parse_size(text):
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise Refused(f"'{text}' is not a size: write 512M or 2G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def parse_disks(text):
    """ssd:2x2G,hdd:4x4G → [("ssd0", size), …]"""
    disks = []
    for part in text.split(","):
        match = re.fullmatch(r"(ssd|hdd|nvme):(\d+)x(\w+)", part)
        if not match:
            raise Refused(f"'{part}' describes no disks: write ssd:2x2G")
        disks += [(f"{match[1]}{i}", parse_size(match[3])) for i in range(int(match[2]))]
    return disks


class Node:
    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number
        self.dir = cluster.dir / f"node{number}"
        self.netns = f"{cluster.tag}-{number}"
        self.address = f"10.83.0.{number}"
        self.api = self.dir / "api.sock"

    # ---- network ----

    def make_network(self):
        port, bridge = f"p{self.number}", self.cluster.bridge
        if quiet("ip", "-n", self.netns, "link", "show", "eth0"):
            return
        quiet("ip", "netns", "add", self.netns)
        run("ip", "-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        run("ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        run("ip", "-n", self.netns, "address", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self.netns, "link", "set", "eth0", "up")

    def is_cut(self):
        out = subprocess.run(["ip", "-n", self.cluster.bridge, "-o", "link", "show", f"p{self.number}"],
                             capture_output=True, text=True).stdout
        return bool(out) and "master br0" not in out

    def plug(self, bridge):
        """Into a bridge of the cluster; None: nowhere."""
        run("ip", "-n", self.cluster.bridge, "link", "set", f"p{self.number}",
            *(["master", bridge] if bridge else ["nomaster"]))

    # ---- the daemon ----

    def pid(self):
        """Of the daemon; None when it does not run."""
        try:
            pid = int((self.dir / "s2dd.pid").read_text())
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, ValueError):
            return None
        return pid if state != "Z" and os.fsencode(self.dir) in command else None

    def is_paused(self):
        pid = self.pid()
        return pid is not None and pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    def start(self):
        if self.pid():
            return
        self.dir.mkdir(parents=True, exist_ok=True)
        command = ["nsenter", f"--net=/run/netns/{self.netns}", str(self.cluster.bin / "s2dd"),
                   "--dir", str(self.dir), "--name", f"node{self.number}", "--listen", f"{self.address}:{PORT}",
                   "--cold-start-grace", str(COLD_START_GRACE_MS), "--vm-restart-delay", str(VM_RESTART_DELAY_MS),
                   "--accel", self.cluster.settings().get("accel", "auto")]
        command += shlex.split(os.environ.get("S2DD_OPTIONS", ""))
        with open(self.dir / "s2dd.log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                       start_new_session=True)
        (self.dir / "s2dd.pid").write_text(f"{process.pid}\n")
        deadline = time.monotonic() + 30
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = (self.dir / "s2dd.log").read_text(errors="replace").splitlines()[-5:]
                raise Refused(f"the daemon of node {self.number} did not start:\n  " + "\n  ".join(tail))
            time.sleep(0.05)

    def answers(self):
        """Whether the API socket is open."""
        import socket
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.api))
            except OSError:
                return False
        return True

    def signal(self, number):
        pid = self.pid()
        if not pid:
            raise Refused(f"the daemon of node {self.number} does not run: 'devcluster start {self.number}'")
        os.kill(pid, number)
        return pid

    def wait_gone(self, pid, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
            if self.pid() != pid:
                return True
            time.sleep(0.02)
        return False

    def kill(self):
        self.wait_gone(self.signal(signal.SIGKILL), 10)

    def stop(self):
        pid = self.signal(signal.SIGTERM)
        if self.is_paused():
            os.kill(pid, signal.SIGCONT)
        if not self.wait_gone(pid, 30):
            raise Refused(f"node {self.number} has not stopped after 30 seconds: see {self.dir}/s2dd.log")

    def processes(self):
        """Everything that lives on this host: daemon, keepers, QEMUs."""
        out = subprocess.run(["ip", "netns", "pids", self.netns], capture_output=True, text=True).stdout
        return [int(pid) for pid in out.split()]

    def off(self):
        # Stopped first, so that none of them sees another die.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.processes():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        deadline = time.monotonic() + 10
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)

    def unmount(self):
        for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
            path = line.split()[1].replace("\\040", " ")
            if path.startswith(f"{self.dir}/"):
                quiet("umount", "-l", path)

    def s2d(self, *arguments):
        return run(self.cluster.bin / "s2d", "--node", self.api, *arguments)

    # ---- disks ----

    def make_disks(self, disks, preallocate):
        folder = self.dir / "disks"
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in disks:
            path = folder / name
            if path.exists():
                continue
            with open(path, "wb") as file:
                file.truncate(size)
            if preallocate:
                run("dd", "if=/dev/zero", f"of={path}", "bs=4M", f"count={size >> 22}", "oflag=direct",
                    "conv=notrunc,fsync", "status=none")

    def disk(self, name):
        path = self.dir / "disks" / name
        if not path.exists():
            raise Refused(f"node {self.number} has no disk '{name}': there are " +
                          ", ".join(sorted(p.name for p in path.parent.iterdir())))
        return path

    def wipe_disk(self, name):
        path = self.disk(name)
        size = path.stat().st_size
        # In place: the daemon has it open. Random, so that nothing of it passes for "never written". Direct, as the
        # daemon's own writes are: the page cache calls what they overtake an I/O error.
        run("dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={min(size >> 20, 64)}", "iflag=fullblock",
            "oflag=direct", "conv=notrunc,fsync", "status=none")
        run("fallocate", "--zero-range", "--offset", min(size, 64 << 20), "--length", max(size - (64 << 20), 4096), path)

    def new_disk(self, name, size):
        if (self.dir / "disks" / name).exists():
            raise Refused(f"node {self.number} has a disk '{name}' already")
        self.make_disks([(name, parse_size(size))], False)

    def fail_disk(self, name):
        self.disk(name)
        self.s2d("development", "fail-disk", name)

    def slow_disk(self, name):
        self.disk(name)
        self.s2d("development", "slow-disk", name)


class Cluster:
    def __init__(self, folder):
        self.dir = pathlib.Path(folder).resolve()
        self.tag = "s2d-" + hashlib.sha256(os.fsencode(self.dir)).hexdigest()[:6]
        self.bridge = f"{self.tag}-br"
        self.bin = pathlib.Path(os.environ.get("S2D_BUILD", ROOT / "build")).resolve() / "bin"
        self.settings_path = self.dir / "devcluster.json"

    def settings(self):
        try:
            return json.loads(self.settings_path.read_text())
        except OSError:
            raise Refused(f"there is no cluster in {self.dir}: 'devcluster up' makes one") from None

    def nodes(self):
        return [Node(self, number) for number in range(1, self.settings()["nodes"] + 1)]

    def node(self, text):
        count = self.settings()["nodes"]
        if not text.isdigit() or not 1 <= int(text) <= count:
            raise Refused(f"'{text}' is no node: they are 1 to {count}")
        return Node(self, int(text))

    def make_bridge(self):
        if quiet("ip", "-n", self.bridge, "link", "show", "br0"):
            return
        quiet("ip", "netns", "add", self.bridge)
        run("ip", "-n", self.bridge, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.bridge, "link", "set", "br0", "up")

    # ---- commands ----

    def cut(self, nodes):
        island = f"cut{nodes[0].number}" if len(nodes) > 1 else None
        if island and not quiet("ip", "-n", self.bridge, "link", "show", island):
            run("ip", "-n", self.bridge, "link", "add", island, "type", "bridge")
            run("ip", "-n", self.bridge, "link", "set", island, "up")
        for node in nodes:
            node.plug(island)

    def heal(self, nodes):
        for node in nodes:
            node.plug("br0")

    def up(self, options):
        if os.geteuid() != 0:
            raise Refused("namespaces and mounts need root: run this with sudo")
        self.dir.mkdir(parents=True, exist_ok=True)
        kind = run("stat", "--file-system", "--format=%T", self.dir).strip()
        if kind in ("tmpfs", "fuseblk", "fuse"):
            raise Refused(f"{self.dir} is on {kind}, which has no direct I/O as disks have: choose another --dir")
        if not (self.bin / "s2dd").exists():
            run(ROOT / "tools/build")
        fresh = not self.settings_path.exists()
        if fresh:
            self.settings_path.write_text(json.dumps({**options, "accel": self.find_accel()}))
        options = self.settings()
        disks = parse_disks(options["disks"])
        self.make_bridge()
        for node in self.nodes():
            node.make_network()
            node.make_disks(disks, options["preallocate"])
            node.start()
        if fresh:
            self.create(options, disks)
        if not options["no_wait"]:
            self.wait(USABLE_SECONDS, healthy=fresh and not options["no_pool"])

    def find_accel(self):
        """All nodes are this machine: what each would ask at each start of its daemon is asked once."""
        probe = subprocess.Popen([str(self.bin / "s2d-kvm-probe")], stdout=subprocess.DEVNULL)
        try:
            return "kvm" if probe.wait(timeout=3) == 0 else "tcg"
        except subprocess.TimeoutExpired:
            probe.kill()  # and no wait: one that hangs in the kernel does not die
            return "tcg"

    def create(self, options, disks):
        first, *others = self.nodes()
        first.s2d("cluster", "create", "dev")
        for node in others:
            token = json.loads(first.s2d("--json", "cluster", "token"))["token"]
            node.s2d("cluster", "join", f"{first.address}:{PORT}", "--token", token)
        if options["no_pool"]:
            return
        first.s2d("pool", "create", "--extent", options["extent"])
        for node in self.nodes():
            for name, _ in disks:
                node.s2d("disk", "claim", node.disk(name))

    def down(self):
        try:
            nodes = self.nodes()
        except Refused:
            nodes = []
        for node in nodes:
            node.off()
            node.unmount()
            quiet("ip", "netns", "delete", node.netns)
        quiet("ip", "netns", "delete", self.bridge)
        if nodes or self.settings_path.exists():
            shutil.rmtree(self.dir)

    def wait(self, seconds, healthy):
        deadline = time.monotonic() + seconds
        why = "nothing answers"
        while True:
            for node in self.nodes():
                if not node.pid() or node.is_paused() or node.is_cut():
                    continue
                done = subprocess.run([str(self.bin / "s2d"), "--node", str(node.api), "--json", "cluster", "health"],
                                      capture_output=True, text=True)
                if done.returncode == 0:
                    health = json.loads(done.stdout)
                    if not healthy or health["health"] == "Healthy":
                        return
                    faults = [f"{f['kind']} {f['subject']}: {f['state']} ({f['text']})" for f in health["faults"]]
                    why = f"it is {health['health']}: " + "; ".join(faults)
                else:
                    why = done.stderr.strip() or why
                break
            if time.monotonic() > deadline:
                raise Refused(f"the cluster is not {'healthy' if healthy else 'usable'} after {seconds} seconds: {why}")
            time.sleep(0.1)

    def status(self):
        for node in self.nodes():
            state = "stopped"
            if node.pid():
                state = "paused" if node.is_paused() else "running"
            cut = ", network cut" if node.is_cut() else ""
            print(f"node{node.number}  {node.address}  {state}{cut}  {node.dir}")

    def env(self):
        print(f"export S2D_NODE={shlex.quote(str(self.nodes()[0].api))}")
        print(f"export S2D_DIR={shlex.quote(str(self.dir))}")
        print(f'export PATH={shlex.quote(str(self.bin))}:"$PATH"')


def take_option(arguments, name, default):
    """Removes '--name VALUE' from the list."""
    if name not in arguments:
        return default
    at = arguments.index(name)
    if at + 1 == len(arguments):
        raise Refused(f"{name} needs a value; see devcluster --help")
    value = arguments[at + 1]
    del arguments[at:at + 2]
    return value


def take_flag(arguments, name):
    if name in arguments:
        arguments.remove(name)
        return True
    return False


def up_options(arguments):
    nodes = take_option(arguments, "--nodes", "3")
    if not nodes.isdigit() or not 1 <= int(nodes) <= 16:
        raise Refused("--nodes is from 1 to 16")
    options = {"nodes": int(nodes), "disks": take_option(arguments, "--disks", "ssd:2x2G"),
               "extent": take_option(arguments, "--extent", "16M"),
               "preallocate": take_flag(arguments, "--preallocate"), "no_pool": take_flag(arguments, "--no-pool"),
               "no_wait": take_flag(arguments, "--no-wait")}
    parse_disks(options["disks"])
    return options


def command(cluster, name, arguments):
    of_node = {"kill": Node.kill, "stop": Node.stop, "start": Node.start, "off": Node.off,
               "pause": lambda node: node.signal(signal.SIGSTOP), "resume": lambda node: node.signal(signal.SIGCONT)}
    of_nodes = {"cut": cluster.cut, "heal": cluster.heal}
    of_disk = {"fail-disk": Node.fail_disk, "slow-disk": Node.slow_disk, "wipe-disk": Node.wipe_disk}
    if name == "up":
        options = up_options(arguments)
        action = lambda: cluster.up(options)
    elif name in ("down", "status", "env"):
        action = getattr(cluster, name)
    elif name == "wait":
        healthy = take_flag(arguments, "--healthy")
        seconds = arguments.pop(0) if arguments else str(USABLE_SECONDS)
        if not seconds.isdigit():
            raise Refused(f"'{seconds}' is no number of seconds")
        action = lambda: cluster.wait(int(seconds), healthy)
    elif name in of_node and arguments:
        node = cluster.node(arguments.pop(0))
        action = lambda: of_node[name](node)
    elif name in of_nodes and arguments:
        nodes = [cluster.node(text) for text in arguments]
        arguments = []
        action = lambda: of_nodes[name](nodes)
    elif name in of_disk and len(arguments) >= 2:
        node, disk = cluster.node(arguments.pop(0)), arguments.pop(0)
        action = lambda: of_disk[name](node, disk)
    elif name == "new-disk" and len(arguments) >= 3:
        node, disk, size = cluster.node(arguments.pop(0)), arguments.pop(0), arguments.pop(0)
        action = lambda: node.new_disk(disk, size)
    else:
        return None
    return None if arguments else action


def main():
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    try:
        cluster = Cluster(take_option(arguments, "--dir", "/var/tmp/s2d-dev"))
        action = command(cluster, arguments[0], arguments[1:]) if arguments else None
        if not action:
            print(f"devcluster: cannot make sense of '{' '.join(arguments)}'; see devcluster --help", file=sys.stderr)
            return 2
        action()
    except Refused as refused:
        print(f"devcluster: {refused}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
