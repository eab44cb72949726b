"""What a seed decides: the sequence of faults, whom they hit and for how long. No look at the cluster, no clock: the same seed and number of
nodes give the same plan, whatever happens."""
import dataclasses
import random

VOLUMES = ("blocks", "files")

# kind: (how often, shortest and longest time that it lasts in seconds)
KINDS = {
    "kill": (5, 0.2, 8),        # SIGKILL of the daemon; its QEMUs live
    "pause": (4, 0.2, 12),      # SIGSTOP, then SIGCONT: it wakes with an old lease
    "cut": (4, 0.5, 12),        # off the network, without a reset
    "off": (2, 1, 10),          # the host dies: daemon, keepers and QEMUs
    "stop": (2, 0.2, 5),        # SIGTERM: hands over what it owns
    "all": (1.5, 0.2, 4),       # every daemon at once
    "move": (4, 0, 0),          # a volume to another owner
    "vm": (1, 0, 0),            # the VM to another node
    "fail-disk": (1.5, 0, 0),   # I/O errors from now on; an operator replaces it
    "wipe-disk": (1, 0, 0),     # destroyed under a running node; the same
}
AWAY = {"kill", "pause", "cut", "off", "stop"}    # a node is missing meanwhile
PLANNED = {"move", "vm"}                          # no fault: nothing is missing
DISK = {"fail-disk", "wipe-disk"}
EARLY = ["kill", "cut", "pause", "fail-disk", "all", "move", "off", "wipe-disk"]  # short runs see each of these


@dataclasses.dataclass
class Stroke:
    """One fault. target: a number of a node, or the name of a volume: whoever owns it then."""
    kind: str
    target: object
    lasts: float
    volume: str = ""     # of "move"
    pick: int = 0        # for choices that depend on what there is: which disk
    after: float = 0.0   # seconds after the first stroke of its step

    def __str__(self):
        whom = f"node{self.target}" if isinstance(self.target, int) else f"the owner of {self.target}"
        what = {"all": "kill all", "move": f"move {self.volume} to {whom}", "vm": f"vm to {whom}"}.get(self.kind, f"{self.kind} {whom}")
        return what + (f" for {self.lasts:.1f} s" if self.lasts else "")


@dataclasses.dataclass
class Step:
    """Strokes that overlap; then, if it is patient, a wait until the cluster is Healthy; then a pause."""
    number: int
    strokes: list
    patient: bool
    rest: float

    def __str__(self):
        return " + ".join(map(str, self.strokes))


class Plan:
    def __init__(self, seed, nodes, only=None, away=0):
        self.random = random.Random(f"chaos {seed} {nodes}")
        self.nodes = nodes
        self.at_once = away or max(1, min(2, (nodes - 1) // 2))  # a majority stays, and one copy of three
        self.kinds = {kind: row for kind, row in KINDS.items() if not only or kind in only}
        self.number = 0
        self.early = [kind for kind in EARLY if kind in self.kinds]
        self.random.shuffle(self.early)

    def target(self):
        if self.random.random() < 0.35:
            return self.random.choice(VOLUMES)
        return self.random.randint(1, self.nodes)

    def stroke(self, kind):
        _, shortest, longest = self.kinds[kind]
        # mostly short, sometimes long
        lasts = shortest + (longest - shortest) * self.random.random() ** 2
        target = self.random.randint(1, self.nodes) if kind in PLANNED else self.target()
        return Stroke(kind, target, round(lasts, 1), self.random.choice(VOLUMES), self.random.randrange(1 << 16))

    def kind(self):
        kinds = list(self.kinds)
        if self.early and self.random.random() < 0.7:
            return self.early.pop()
        return self.random.choices(kinds, [self.kinds[kind][0] for kind in kinds])[0]

    def step(self):
        self.number += 1
        strokes = [self.stroke(self.kind())]
        if strokes[0].kind in AWAY and self.at_once > 1 and self.random.random() < 0.5:
            second = self.stroke(self.random.choice([kind for kind in self.kinds if kind in AWAY]))
            second.after = round(self.random.uniform(0, 2), 1)
            strokes.append(second)
        return Step(self.number, strokes, self.random.random() < 0.5, round(self.random.uniform(0.2, 4), 1))
