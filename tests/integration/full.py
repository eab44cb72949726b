#!/usr/bin/env python3
"""A pool that fills while a VM writes, on three real daemons with a disk each and a thin three-way mirror.

  full    a client gets ENOSPC; the guest's write pauses the VM: health, `vm list` and an event say so; the guest has seen no error
  died    the daemon of the VM's node is killed and comes back: the VM is still paused, and the daemon still knows
  room    another volume is deleted: the VM goes on by itself, the write is done, and the guest reads back every count; a client's
          write to what got ENOSPC succeeds

usage: full.py
"""
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from fault_clients import guest_image  # noqa: E402
from lab import Failed, Guest, Lab  # noqa: E402
from nbd_client import NbdClient, NbdError  # noqa: E402

MIB = 1 << 20
ENOSPC = 28            # as NBD says it
EXTENT = 16 * MIB
LEFT = 4               # extents a disk that the thin volume can still have
RING = 1024            # counts that fill the guest's ring: each then has a block of its own
PATIENCE = 240         # seconds; only what is broken takes them


def wait(condition, what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.2)


def vm(lab, node=None):
    return next(row for row in lab.json("vm", "list", node=node) if row["name"] == "web")


def events(lab):
    return [event["code"] for event in lab.json("cluster", "events", "--last", "100")]


def write_until_full(client, at, piece):
    """Writes pieces one after another until one is refused with ENOSPC; where that was."""
    while at + piece <= client.size:
        try:
            client.write(at, b"\xa5" * piece)
        except NbdError as error:
            if f"error {ENOSPC} " not in str(error):
                raise Failed(f"a client on a full pool got '{error}', not ENOSPC") from error
            return at
        at += piece
    raise Failed("the pool does not become full")


class Step:
    def __init__(self):
        self.began = time.monotonic()

    def __call__(self, text):
        print(f"{time.monotonic() - self.began:4.0f} s  {text}", flush=True)


def fill(lab, node):
    """Another volume takes what disks have, a client the rest. The client, and where it got ENOSPC first."""
    free = min(disk["extents"] - disk["used_bytes"] // EXTENT for disk in lab.json("disk", "list"))
    lab.s2d("volume", "create", "other", "--size", f"{(free - LEFT) * EXTENT // MIB}M", "--fixed")
    lab.s2d("file", "create", "v/filler", "--size", "2G")
    client = NbdClient(lab.node_dir(node) / "nbd.sock", "v/filler", timeout=PATIENCE)
    full = write_until_full(client, 0, MIB)
    write_until_full(client, full, 4096)
    return client, full


def expect_paused(lab, node=None):
    seen = wait(lambda: (row := vm(lab, node))["state"] == "paused" and row, "the VM is not paused")
    if seen["health"] != "Unhealthy" or "no room" not in seen["reason"]:
        raise Failed(f"vm list does not say why: {seen}")
    text = lab.s2d("vm", "list", node=node)
    if "paused" not in text or "no room" not in text:
        raise Failed(f"vm list: {text}")


def run(lab, step):
    lab.devcluster("up", "--disks", "ssd:1x1G", "--extent", "16M")
    lab.s2d("volume", "create", "v", "--size", "4G")
    lab.s2d("file", "import", guest_image(), "v/web.raw")
    lab.s2d("vm", "create", "web", "--memory", "192M", "--vcpus", "1", "--generation", "1", "--disk", "v/web.raw")
    lab.s2d("vm", "start", "web", "--on", "node2")
    guest = Guest(lab, "web")
    guest.wait_boot(1, PATIENCE)
    guest.ask(2, "rate 0", PATIENCE)
    step("a guest runs on node 2, and has written only a few blocks of its ring")

    client, full = fill(lab, 3)
    wait(lambda: "pool.no_space" in events(lab), "no event says that the pool is full")
    health = lab.s2d("cluster", "health")
    if "No space" not in health:
        raise Failed(f"health of a full pool: {health}")
    step(f"the pool is full: a client got ENOSPC after {full // MIB} MiB; health and an event say so")

    asked = subprocess.Popen([sys.executable, str(HERE / "full.py"), "--ask", str(lab.dir), f"write {RING}"], stdout=subprocess.PIPE,
                             text=True)
    expect_paused(lab)
    wait(lambda: "vm.no_space" in events(lab), "no event says that the VM is paused")
    if asked.poll() is not None or guest.errors():
        raise Failed(f"the guest was given an answer: {asked.stdout and asked.stdout.read()} {guest.errors()}")
    step("the guest's write paused its VM: vm list and an event say so, and the guest has seen no error")

    lab.devcluster("kill", 2)
    lab.devcluster("start", 2)
    expect_paused(lab)
    if guest.errors() or len(guest.boots()) != 1:
        raise Failed(f"the guest saw its daemon die: {guest.errors()}, boots {guest.boots()}")
    step("its daemon was killed and came back: still paused")

    lab.s2d("volume", "delete", "other", "--yes")
    wait(lambda: asked.poll() is not None, "the guest does not go on")
    answer = asked.stdout.read().strip()
    if not answer.startswith("OK write"):
        raise Failed(f"the guest's writes ended with '{answer}'")
    wait(lambda: vm(lab)["state"] == "running" and vm(lab)["health"] == "Healthy", "vm list does not say that the VM runs")
    wait(lambda: "vm.resumed" in events(lab), "no event says that the VM goes on")
    verified = guest.ask(2, "verify", PATIENCE)
    if not verified.startswith("OK verify") or guest.errors() or len(guest.boots()) != 1:
        raise Failed(f"the guest says: {verified} {guest.errors()[:3]}, boots {guest.boots()}")
    client.write(full, b"\x5a" * MIB)
    if client.read(full, MIB) != b"\x5a" * MIB:
        raise Failed("what was written where there was no room reads wrong")
    client.close()
    step(f"there is room again: the VM goes on by itself ({answer}, {verified})")


def main():
    if sys.argv[1:2] == ["--ask"]: # in a process of its own, because it waits
        print(Guest(Lab(sys.argv[2]), "web").ask(2, sys.argv[3], 2 * PATIENCE), flush=True)
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    step = Step()
    with tempfile.TemporaryDirectory(prefix="s2d-full.", dir="/var/tmp") as folder:
        lab = Lab(pathlib.Path(folder) / "cluster")
        try:
            run(lab, step)
        except (Failed, OSError, subprocess.TimeoutExpired, NbdError) as failure:
            print(f"FAILED: {failure}")
            for path in sorted(lab.dir.glob("node*/s2dd.log")) + sorted(lab.dir.glob("node*/vms/web/*.log")):
                print(f"--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
            return 1
        finally:
            subprocess.run([HERE.parent.parent / "tools/devcluster", "--dir", lab.dir, "down"], capture_output=True, check=False)
    print("full: all as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
