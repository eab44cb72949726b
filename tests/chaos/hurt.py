"""Carries a plan out on a devcluster: hurts, mends, and waits for what the product promises. It never hurts more than the resiliency bears:
a majority of the nodes stays, and of each piece of data one copy that nobody touched since the cluster was Healthy."""
import dataclasses
import pathlib
import threading
import time
from functools import partial

from lab import Failed, together
from plan import AWAY, DISK

HEALTHY_SECONDS = 180    # after the last fault; a rebuilt disk included
COPIES = 3


@dataclasses.dataclass
class Done:
    """A stroke as it happened."""
    kind: str
    node: int
    begun: float
    ended: float = 0.0


class Cluster:
    """The devcluster as the script means it to be: who is away, and who may lack writes."""

    def __init__(self, lab, nodes, disk_size):
        self.lab, self.nodes = lab, nodes
        self.disk_size = disk_size
        self.away = set()     # nodes that do not answer, on purpose
        self.stopped = set()  # of these: whose daemon does not run
        self.dirty = set()    # nodes that were hurt since the cluster was Healthy
        self.lock = threading.RLock()
        self.lives = {node: 1 for node in range(1, nodes + 1)}
        self.new_disks = 0
        self.healthy_longest = 0.0
        self.done = []

    def up(self):
        """A node to ask."""
        return next(node for node in range(1, self.nodes + 1) if node not in self.away)

    def life(self, node):
        """Which life of its daemon; None: between two."""
        with self.lock:
            return None if node in self.stopped else self.lives[node]

    def dead_daemon(self):
        """A node whose daemon should run and does not; None: all is well."""
        with self.lock:
            for node in range(1, self.nodes + 1):
                if node not in self.stopped and not self.runs(node):
                    return node
        return None

    def runs(self, node):
        try:
            pid = int((self.lab.node_dir(node) / "s2dd.pid").read_text())
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except (OSError, ValueError):
            return False

    # ---- waiting for promises ----

    def wait_healthy(self):
        begun = time.monotonic()
        try:
            self.lab.wait_healthy(HEALTHY_SECONDS)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.why()}") from None
        self.healthy_longest = max(self.healthy_longest, time.monotonic() - begun)
        self.dirty.clear()

    def why(self):
        try:
            return self.lab.s2d("cluster", "health", node=self.up())
        except (Failed, OSError, StopIteration) as failure:
            return str(failure)

    # ---- one fault ----

    def begin(self, kind, node):
        self.away.add(node)
        self.dirty.add(node)
        if kind in ("kill", "off", "stop"):
            with self.lock:
                self.stopped.add(node)
        self.lab.devcluster(kind, node)

    def end(self, kind, node):
        if kind in ("kill", "off", "stop"):
            self.start(node)
        else:
            self.lab.devcluster({"pause": "resume", "cut": "heal"}[kind], node)
        self.away.discard(node)

    def start(self, node):
        self.lab.devcluster("start", node)
        with self.lock:
            self.stopped.discard(node)
            self.lives[node] += 1

    def all(self, lasts):
        everybody = range(1, self.nodes + 1)
        self.away.update(everybody)
        self.dirty.update(everybody)
        with self.lock:
            self.stopped.update(everybody)
        together(*[partial(self.lab.devcluster, "kill", node) for node in everybody])
        time.sleep(lasts)
        for node in everybody:
            self.start(node)
        self.away.clear()

    def move(self, volume, node):
        """A refusal is none of our business: requests may be under way, or it is there already."""
        name = f"node{node}"
        done = self.lab.s2d("volume", "move", volume, "--to", name, node=self.up(), check=False)
        return done.returncode == 0

    def move_vm(self, node):
        self.lab.s2d("vm", "stop", "guest", "--timeout", 15, node=self.up(), check=False)
        self.lab.s2d("vm", "start", "guest", "--on", f"node{node}", node=self.up(), check=False)

    def lose_disk(self, kind, node, pick):
        """A disk goes; an operator puts a new one in, and tells."""
        name = f"node{node}"
        disks = sorted((disk for disk in self.lab.json("disk", "list", node=self.up())
                        if disk["node"] == name and disk["state"] == "ok"), key=lambda disk: disk["id"])
        disk = disks[pick % len(disks)]
        self.dirty.add(node)
        self.lab.devcluster(kind, node, disk["name"])
        time.sleep(1 + pick % 7)
        self.new_disks += 1
        new = f"ssd{10 + self.new_disks}"
        self.lab.devcluster("new-disk", node, new, self.disk_size)
        self.lab.s2d("disk", "replace", f"{name}:{disk['name']}", self.lab.node_dir(node) / "disks" / new, "--yes", "--wait",
                     node=node, timeout=HEALTHY_SECONDS)
        (self.lab.node_dir(node) / "disks" / disk["name"]).unlink()

    # ---- a step of the plan ----

    def resolve(self, target):
        """The number of the node; the owner of a volume may be nobody at the moment."""
        if isinstance(target, int):
            return target
        return self.lab.owner(target, node=self.up()) or 1

    def make_room(self, strokes):
        """Waits until the cluster bears these."""
        nodes = {node for stroke, node in strokes if stroke.kind in AWAY | DISK}
        loses_disk = any(stroke.kind in DISK for stroke, _ in strokes)
        limit = 0 if loses_disk else COPIES - 1
        if (nodes and (len(self.dirty | nodes) > max(limit, 1) or loses_disk and self.dirty)) or strokes[0][0].kind == "all":
            self.wait_healthy()

    def one(self, stroke, node, since):
        time.sleep(max(0.0, since + stroke.after - time.monotonic()))
        record = Done(stroke.kind, node, time.monotonic())
        self.done.append(record)
        if stroke.kind in AWAY:
            self.begin(stroke.kind, node)
            time.sleep(stroke.lasts)
            self.end(stroke.kind, node)
        elif stroke.kind == "all":
            self.all(stroke.lasts)
        elif stroke.kind == "move":
            self.move(stroke.volume, node)
        elif stroke.kind == "vm":
            self.move_vm(node)
        else:
            self.lose_disk(stroke.kind, node, stroke.pick)
        record.ended = time.monotonic()

    def step(self, step):
        strokes = [(stroke, self.resolve(stroke.target)) for stroke in step.strokes]
        if len({node for _, node in strokes}) < len(strokes):
            strokes = strokes[:1]
        self.make_room(strokes)
        since = time.monotonic()
        together(*[partial(self.one, stroke, node, since) for stroke, node in strokes])
        if step.patient:
            self.wait_healthy()
        time.sleep(step.rest)
