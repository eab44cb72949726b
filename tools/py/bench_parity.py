"""bench parity: dual parity next to the three-way mirror, on one cluster of six daemons, and next to ISA-L (tools/README.md)."""

import json
import os
import re
import statistics

import bench as b

NODES = 6
MIRROR, TWO, FOUR = "mirror3", "2+2", "4+2"
VOLUMES = {MIRROR: ("--resiliency", "mirror3"), TWO: ("--resiliency", "parity2", "--columns", "2+2"),
           FOUR: ("--resiliency", "parity2", "--columns", "4+2")}
JOBS = (b.WRITE_1, b.READ_1, b.WRITE_32, b.SEQ_WRITE, b.SEQ_READ)

# (what, volume, job, figure as a multiple of the mirror's, "most" or "least", bound)
WANTED = (
    ("4 KiB write at depth 1 on 2+2, p50 x mirror3", TWO, b.WRITE_1, "p50_us", "most", 1.5),
    ("1 MiB sequential write on 4+2, MiB/s x mirror3", FOUR, b.SEQ_WRITE, "mib_per_s", "least", 1),
)
ENCODE_WANTED = 0.7  # of ISA-L's own speed


def create_volumes(s2d, options, folder):
    """A target for each: one file, asked for at the NBD socket of its volume's owner."""
    size = options.size or 256 << 20
    pids = b.s2dd_pids(folder)
    if len(pids) != NODES:
        raise b.Failure(f"{len(pids)} s2dd processes below {folder}, not {NODES}")
    targets = {}
    for number, (name, words) in enumerate(VOLUMES.items()):
        volume = f"bench{number}"
        s2d("volume", "create", volume, "--size", str(size + size // 8 + (64 << 20)), *words, "--fixed")
        s2d("file", "create", f"{volume}/disk", "--size", str(size))
        owner = re.search(r"\d+$", str(s2d("volume", "show", volume)["owner"]))[0]
        socket = os.path.join(folder, f"node{owner}", "nbd.sock")
        targets[name] = b.Target(f"nbd+unix:///{volume}/disk?socket={socket}", pids, size)
    return targets


def measure(targets, floor, options):
    """Every round does a job on all volumes one after another, so that their ratios are of one moment."""
    taken = {(name, job): [] for job in JOBS for name in (*targets, *(["floor"] if job.floor else []))}
    for number in range(options.rounds):
        for job in JOBS:
            b.say(f"round {number + 1}/{options.rounds}: {job.title}")
            if job.floor:
                taken["floor", job].append(floor(job.floor))
            for name, target in targets.items():
                taken[name, job].append(b.run_job(target, job, options.seconds))
    return taken


def encode_shares(build):
    """What encoding does inside the write path and by itself, in one process."""
    shares = []
    for data_columns in (2, 4):
        lines = b.run(os.path.join(build, "resiliency/bench_mirror"), "--data", str(data_columns)).splitlines()
        shares.append(json.loads(lines[-1]))
    return shares


def verdicts(taken, shares):
    found = []
    for what, name, job, figure, bound, limit in WANTED:
        pairs = zip(taken[name, job], taken[MIRROR, job])
        found.append(b.verdict(what, statistics.median(mine[figure] / mirror[figure] for mine, mirror in pairs), bound, limit))
    for share in shares:
        what = f"encoding inside the write path of {share['shape']}, of ISA-L's own speed"
        found.append(b.verdict(what, share["share"], "least", ENCODE_WANTED))
    return found


def rows_of(taken):
    return [{"job": f"{name} {job.title}", "figures": b.median_of(rounds), "rounds": rounds} for (name, job), rounds in taken.items()]


def run(options, floor_program, folder):
    """Returns rows, idle samples (none), verdicts."""
    cluster = os.path.join(folder, "cluster")
    shares = encode_shares(os.path.dirname(os.path.dirname(floor_program)))
    for share in shares:
        b.say(f"encode {share['shape']}: {share['path_gb_per_s']} GB/s in the write path, ISA-L alone {share['isal_gb_per_s']} GB/s")
    with b.devcluster(options, cluster, NODES) as s2d:
        targets = create_volumes(s2d, options, cluster)
        for target in targets.values():
            b.fill(target)
        taken = measure(targets, b.floor_of(options, floor_program, folder), options)
    return rows_of(taken), [], verdicts(taken, shares)
