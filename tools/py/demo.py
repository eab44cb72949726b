#!/usr/bin/env python3
"""Shows what s2d is for, in a few minutes, on this machine.

usage: sudo tools/demo [--check] [--dir D]

Installs what is missing, builds, starts a three-node cluster of real daemons, makes a pool and a three-way-mirror volume,
boots a VM from a disk on it, kills the daemon that owns the volume, then the daemon of the VM's own node, and shows each time
that the guest's data is all there and that exactly one copy of the VM runs. Then a second VM is linked to the first one's
disk, and on a cluster of five nodes a parity volume loses two of them at once. The three-node cluster stays up; the last line says how
to stop it. --check: leaves nothing behind, and exits with 0 only when every step was verified.
"""
import filecmp
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/py"))
sys.dont_write_bytecode = True

from lab import CopyCounter, Failed, Guest, Lab  # noqa: E402

LINKED = "vm2"  # cloned from VM
PARITY = "archive"
VOLUME, VM, DISK = "volume1", "vm1", "volume1/vm1.raw"


class Steps:
    """Numbered lines on the screen, with how long each step took."""

    def __init__(self):
        self.number = 0
        self.start = time.monotonic()

    def run(self, what, action):
        self.number += 1
        print(f"{self.number:2}. {what} … ", end="", flush=True)
        begun = time.monotonic()
        seen = action()
        print(f"{seen or 'done'} ({time.monotonic() - begun:.1f} s)", flush=True)


def prepare():
    for command in (["tools/install-packages", "build", "run", "test"], ["tools/build"]):
        done = subprocess.run([ROOT / command[0], *command[1:]], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


class Demo:
    def __init__(self, folder):
        self.lab = Lab(folder)
        self.parity_lab = Lab(f"{folder}-parity")
        self.guest = Guest(self.lab, VM)
        self.copies = CopyCounter(self.lab, VM)
        self.summary = []

    # ---- steps: each verifies what it claims, and returns a few words ----

    def cluster(self):
        self.lab.devcluster("up")
        health = self.lab.json("cluster", "health")["health"]
        if health != "Healthy":
            raise Failed(f"the new cluster is {health}")
        return f"3 nodes, {len(self.lab.json('disk', 'list'))} disks, {health}"

    def volume(self):
        self.lab.s2d("volume", "create", VOLUME, "--size", "1G", "--resiliency", "mirror3")
        volume = self.lab.json("volume", "show", VOLUME)
        if volume["resiliency"] != "mirror3":
            raise Failed(f"the volume is {volume['resiliency']}")
        return f"owned by {volume['owner']}"

    def image(self):
        made = subprocess.run([ROOT / "tools/guest-image"], capture_output=True, text=True, check=True).stdout.strip()
        self.disk_image = pathlib.Path(made.splitlines()[-1])
        self.lab.s2d("file", "import", self.disk_image, DISK)
        return f"{self.disk_image.stat().st_size >> 20} MiB in {DISK}"

    def boot(self):
        owner = self.lab.owner(VOLUME)
        self.home = owner % 3 + 1
        self.lab.s2d("vm", "create", VM, "--memory", "192M", "--vcpus", "1", "--generation", "1", "--disk", DISK)
        self.copies.start()
        self.lab.s2d("vm", "start", VM, "--on", f"node{self.home}")
        self.guest.wait_boot(1, 120)
        self.guest.wait_ticks(10, 60)
        return f"up on node{self.home}, writing; the volume is owned by node{owner}"

    def check_guest(self):
        answer = self.guest.ask(self.guest.node(), "verify")
        errors = self.guest.errors()
        if not answer.startswith("OK") or errors:
            raise Failed(f"the guest says: {answer} {errors}")
        return answer

    def kill_owner(self):
        owner = self.lab.owner(VOLUME, node=self.home)
        self.lab.devcluster("kill", owner)
        stall = self.guest.wait_ticks(20, 60)
        if len(self.guest.boots()) != 1:
            raise Failed("the guest was restarted, although its own node lives")
        now = self.lab.owner(VOLUME, node=self.home)
        if now in (0, owner):
            raise Failed(f"the volume is owned by node{now} still")
        self.summary.append(f"the owner's daemon killed: the guest's longest wait for a write was {stall:.1f} s, no error")
        return f"node{owner} killed, node{now} owns the volume, longest wait {stall:.1f} s; guest: {self.check_guest()}"

    def return_of(self, number):
        self.lab.devcluster("start", number)
        self.lab.wait_healthy()
        return "all copies in-sync again"

    def kill_home(self):
        before = self.guest.acknowledged()
        # the console's last lines count as well: what was acknowledged until the very end
        self.lab.devcluster("kill", self.home)
        begun = time.monotonic()
        found = self.guest.wait_boot(2, 120)
        took = time.monotonic() - begun
        promised = max([count for count in self.guest.counts(r"TICK (\d+)") if count <= found + 1], default=0)
        if found < before:
            raise Failed(f"the guest had acknowledged {before}, and found {found}")
        self.guest.wait_ticks(10, 60)
        survivor = next(number for number in (1, 2, 3) if number != self.home)
        now = int(self.lab.json("vm", "show", VM, node=survivor)["node"].removeprefix("node"))
        if now == self.home:
            raise Failed("the VM is on the dead node still")
        self.now = now
        self.summary.append(f"the VM's own daemon killed: up elsewhere after {took:.1f} s, counts up to {found} found")
        answer = self.guest.ask(now, "verify")
        if not answer.startswith("OK") or self.guest.errors():
            raise Failed(f"the guest says: {answer} {self.guest.errors()}")
        return f"runs on node{now}; acknowledged before: {before}, found on disk: {found} (last told: {promised}); {answer}"

    def one_copy(self):
        if self.copies.running() != 1:
            raise Failed(f"{self.copies.running()} copies of the VM run")
        most = self.copies.finish()
        if most != 1:
            raise Failed(f"at some time {most} copies of the VM ran at once")
        self.summary.append(f"never more than one copy of the VM ran ({self.copies.looks} looks)")
        return f"{self.copies.looks} looks, never two"

    # ---- a clone ----

    def linked(self):
        guest = Guest(self.lab, LINKED)
        before = self.guest.acknowledged()
        begun = time.monotonic()
        self.lab.s2d("vm", "create", LINKED, "--clone-of", VM)
        took = time.monotonic() - begun
        self.lab.s2d("vm", "start", LINKED, "--on", f"node{self.home}")
        found = guest.wait_boot(1, 120)
        if found < before:
            raise Failed(f"the original had acknowledged {before}, the linked VM found {found}")
        guest.wait_ticks(5, 60)
        answer = guest.ask(guest.node(), "verify")
        if not answer.startswith("OK") or guest.errors():
            raise Failed(f"the linked VM says: {answer} {guest.errors()}")
        self.check_guest()
        self.lab.s2d("vm", "kill", LINKED, "--yes")
        self.summary.append(f"a VM linked to the running one in {took:.1f} s, with all that was on its disk")
        return f"made in {took:.1f} s, found {found} of at least {before}; {answer}"

    # ---- parity, on more nodes ----

    def parity(self):
        lab = self.parity_lab
        lab.devcluster("up", "--nodes", 5, "--disks", "ssd:1x2G")
        lab.s2d("volume", "create", PARITY, "--size", "1G", "--resiliency", "parity2")
        lab.s2d("file", "import", self.disk_image, f"{PARITY}/image")
        shape = lab.json("volume", "show", PARITY)
        if shape["resiliency"] != "parity2":
            raise Failed(f"the volume is {shape['resiliency']}")
        return f"5 nodes, {shape['columns']} columns, {self.disk_image.stat().st_size >> 20} MiB in it"

    def compare(self):
        copy = self.parity_lab.dir / "image"
        copy.unlink(missing_ok=True)
        self.parity_lab.s2d("file", "export", f"{PARITY}/image", copy)
        if not filecmp.cmp(self.disk_image, copy, shallow=False):
            raise Failed("the file is not what was written")
        copy.unlink()

    def kill_two(self):
        owner = self.parity_lab.owner(PARITY)
        other = owner % 5 + 1
        for number in (owner, other):
            self.parity_lab.devcluster("kill", number)
        self.compare()
        for number in (owner, other):
            self.parity_lab.devcluster("start", number)
        self.parity_lab.wait_healthy()
        self.compare()
        self.parity_lab.devcluster("down")
        self.summary.append("a parity volume without two of its five nodes: all of a file read, byte for byte")
        return f"without node{owner} (its owner) and node{other} the file was whole; healthy again when they were back"

    def run(self):
        steps = Steps()
        steps.run("packages and build", prepare)
        steps.run("a cluster of three nodes, and its pool", self.cluster)
        steps.run("a three-way-mirror volume", self.volume)
        steps.run("a disk image on it", self.image)
        steps.run("a VM boots from it", self.boot)
        steps.run("the daemon that owns the volume is killed", self.kill_owner)
        killed = next(n for n in (1, 2, 3) if f"node{n}" not in self.up_nodes())
        steps.run(f"node{killed} comes back", lambda: self.return_of(killed))
        steps.run("the daemon of the VM's own node is killed", self.kill_home)
        steps.run(f"node{self.home} comes back", lambda: self.return_of(self.home))
        steps.run("one copy of the VM, at any time", self.one_copy)
        steps.run("a second VM, linked to the first one's disk", self.linked)
        steps.run("a parity volume, on a cluster of its own", self.parity)
        steps.run("two nodes of that cluster are killed at once", self.kill_two)
        print(f"\nAll of it verified, in {time.monotonic() - steps.start:.0f} seconds:")
        for line in self.summary:
            print(f"  - {line}")

    def up_nodes(self):
        return [line.split()[0] for line in self.lab.devcluster("status").splitlines() if "running" in line]


def main():
    arguments = sys.argv[1:]
    if "-h" in arguments or "--help" in arguments:
        print(__doc__.strip())
        return 0
    check = "--check" in arguments
    folder = "/var/tmp/s2d-demo"
    if "--dir" in arguments and arguments.index("--dir") + 1 < len(arguments):
        folder = arguments[arguments.index("--dir") + 1]
        arguments = [a for a in arguments if a not in ("--dir", folder)]
    if [a for a in arguments if a != "--check"]:
        print(f"demo: cannot make sense of '{' '.join(arguments)}'; see tools/demo --help", file=sys.stderr)
        return 2
    demo = Demo(folder)
    status = 0
    try:
        if pathlib.Path(folder, "devcluster.json").exists():
            raise Failed(f"a cluster is there already: stop it with 'tools/devcluster --dir {folder} down'")
        demo.run()
    except (Failed, subprocess.SubprocessError, KeyError, OSError) as failure:
        print(f"FAILED\n\ndemo: {failure}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 1
    if check:
        if status != 0:
            keep = pathlib.Path("/var/tmp/s2d-demo-logs")
            shutil.rmtree(keep, ignore_errors=True)
            for log in pathlib.Path(folder).glob("node*/s2dd.log"):
                keep.mkdir(exist_ok=True)
                shutil.copy(log, keep / f"{log.parent.name}.log")
            print(f"demo: the daemons' logs are in {keep}", file=sys.stderr)
        demo.lab.devcluster("down")
    if pathlib.Path(demo.parity_lab.dir, "devcluster.json").exists():
        demo.parity_lab.devcluster("down")
    if not check and pathlib.Path(folder, "devcluster.json").exists():
        print(f"\nThe cluster is up: eval \"$({ROOT}/tools/devcluster --dir {folder} env)\"; s2d cluster status"
              f"\nTo stop it: {ROOT}/tools/devcluster --dir {folder} down")
    return status


sys.exit(main())
