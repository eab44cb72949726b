"""bench hybrid: hard disks with a flash cache, next to flash alone and to the bare hard disks (tools/README.md).

Capacity is files that wait as a 7200 rpm drive does (s2d/base/hdd.c); flash is files as they are."""

import argparse
import json
import os
import time

import bench as b

FLASH, HYBRID, BARE = "flash", "hybrid", "bare disk"
DISKS = {FLASH: "ssd:1x1G", HYBRID: "hdd:1x1G,ssd:1x1G"}  # the slower first: flash that is claimed next to it is for cache
FILE_BYTES = 256 * b.MIB
FREE_LOG_BYTES = 12 * b.MIB  # of writes at depth 1 that fit into an empty log long before it is drained
WARM = ("--rw=randread", "--bs=4k", "--iodepth=16", "--randrepeat=1", "--size=16M")

WRITE_FREE = b.Job("write 4k, log free", 1, b.WRITE_1.fio, 1)
WRITE_FULL = b.Job("write 4k, log full", 32, b.WRITE_32.fio, 1)
READ_WARM = b.Job("read 4k, cached", 16, b.READ_32.fio, 0)

LATENCY_WANTED, RATE_WANTED = 1.3, 5


def bare_rate(build, folder, seconds):
    """Random writes a second of one such disk itself, at depth 32, within the space that the file takes."""
    words = [os.path.join(build, "cache-tier/bench_store"), "--raw", "--hdd", "--path", os.path.join(folder, "bare"), "--depth", "32",
             "--size", str(1 << 30), "--span", str(FILE_BYTES), "--seconds-read", str(max(1, int(seconds)))]
    return json.loads(b.run(*words).splitlines()[-1])["writes_per_s"]


def figures_of(target, job, *arguments):
    """A job of a length that its arguments give."""
    meter = b.Meter(target.pids)
    result = b.run_fio(target, job.name.replace(" ", "-").replace(",", ""), (*job.fio, f"--iodepth={job.depth}", *arguments))
    side = result["write" if job.write_share else "read"]
    duration = result["job_runtime"] / 1e3
    ios = side["total_ios"]
    return {"seconds": duration, "ios": ios, "iops": ios / duration, "mib_per_s": side["io_bytes"] / b.MIB / duration,
            **b.latencies([side]), "daemon_cpu_us": sum(meter.daemon_seconds()) / ios * 1e6,
            "machine_cpu_us": meter.machine_seconds() / ios * 1e6}


def await_drained(s2d, seconds=60):
    """Until a lap of the log is not ahead of us: the oldest sixteenths go while nobody writes."""
    deadline = time.monotonic() + seconds
    while any(row["log_fill_percent"] > 62 for row in s2d("perf", "--seconds", "0.2")["caches"]):
        if time.monotonic() > deadline:
            raise b.Failure("logs are not drained: s2d perf tells")
    return s2d("perf", "--seconds", "0.2")["caches"]


def make_slow(s2d, folder):
    """After what was written at full speed is in place; every node has one hard disk, and its log is on flash."""
    for disk in s2d("disk", "list"):
        if disk["role"] == "capacity" and disk["status"]["log_on"] == disk["name"]:
            raise b.Failure(f"the log of {disk['name']} of {disk['node']} is not on its cache disk")
    for number in (1, 2, 3):
        b.run(os.path.join(b.ROOT, "tools/devcluster"), "slow-disk", str(number), "hdd0", "--dir", folder)


def measure(kind, options, folder, bare):
    """Figures by job of one cluster."""
    with b.devcluster(argparse.Namespace(**{**vars(options), "disks": DISKS[kind]}), folder) as s2d:
        target = b.create_target(s2d, argparse.Namespace(**{**vars(options), "size": FILE_BYTES}), folder)
        b.fill(target)
        if kind == HYBRID:
            make_slow(s2d, folder)
        found = {}
        b.say(f"{kind}: {WRITE_FREE.name}")
        await_drained(s2d)
        found[WRITE_FREE] = figures_of(target, WRITE_FREE, f"--io_size={FREE_LOG_BYTES}")
        b.say(f"{kind}: {WRITE_FULL.name}")
        b.run_fio(target, "fill-log", (*WRITE_FULL.fio, "--iodepth=32", f"--io_size={target.log_size}"))
        found[WRITE_FULL] = figures_of(target, WRITE_FULL, "--time_based", f"--runtime={2 * options.seconds}")
        if kind == HYBRID:
            b.say(f"{kind}: {READ_WARM.name}")
            await_drained(s2d)
            b.run_fio(target, "warm", ("--time_based", f"--runtime={2 * options.seconds}", *WARM))
            found[READ_WARM] = figures_of(target, READ_WARM, "--time_based", f"--runtime={options.seconds}", "--size=16M")
            found[READ_WARM]["caches"] = s2d("perf", "--seconds", "0.2")["caches"]
        found[WRITE_FULL]["x_bare"] = found[WRITE_FULL]["iops"] / bare
        return found


def verdicts(taken, bare):
    flash, hybrid = taken[FLASH][WRITE_FREE], taken[HYBRID][WRITE_FREE]
    return [b.verdict("4 KiB write at depth 1 while the log has room, p50 x flash alone", hybrid["p50_us"] / flash["p50_us"], "most",
                      LATENCY_WANTED),
            b.verdict("sustained 4 KiB writes/s with a full log, x the bare hard disk", taken[HYBRID][WRITE_FULL]["iops"] / bare, "least",
                      RATE_WANTED)]


def run(options, floor_program, folder):
    """Returns rows, idle samples (none), verdicts."""
    bare = bare_rate(os.path.dirname(os.path.dirname(floor_program)), folder, options.seconds)
    b.say(f"{BARE}: {bare:.0f} random writes/s at depth 32")
    taken = {kind: measure(kind, options, os.path.join(folder, kind), bare) for kind in DISKS}
    rows = [{"job": f"{kind} {job.title}"[:34], "figures": figures} for kind, found in taken.items() for job, figures in found.items()]
    return rows, [], verdicts(taken, bare)
