#!/usr/bin/env python3
"""What an I/O costs: a volume, or any NBD export, against the floor of this machine (tools/README.md)."""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
LAPS = 3  # of the log, by each write job: less, and destage is not in its figures


class Failure(Exception):
    """Something that ends the run: said in one line."""


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    depth: int
    fio: tuple  # what sets it apart for fio
    write_share: float
    floor: str = ""  # the same in bench-floor's words

    @property
    def title(self):
        return f"{self.name} {self.depth}"


RANDOM = ("--bs=4k", "--randrepeat=0", "--norandommap", "--random_generator=tausworthe64")
WRITE_1 = Job("write 4k", 1, (*RANDOM, "--rw=randwrite"), 1, "write:1")
READ_1 = Job("read 4k", 1, (*RANDOM, "--rw=randread"), 0, "read:1")
WRITE_32 = Job("write 4k", 32, (*RANDOM, "--rw=randwrite"), 1, "write:32")
READ_32 = Job("read 4k", 32, (*RANDOM, "--rw=randread"), 0, "read:32")
MIX_32 = Job("70/30 4k", 32, (*RANDOM, "--rw=randrw", "--rwmixread=70"), 0.3, "mix:32")
SEQ_WRITE = Job("write 1M seq", 8, ("--bs=1M", "--rw=write"), 1)
SEQ_READ = Job("read 1M seq", 8, ("--bs=1M", "--rw=read"), 0)
JOBS = (WRITE_1, READ_1, WRITE_32, READ_32, MIX_32, SEQ_WRITE, SEQ_READ)

# What is wanted now: (what, job, figure, "most" or "least", bound). "x_" figures are ratios to the floor.
WANTED = (
    ("write p50 at depth 1, x floor", WRITE_1, "x_p50_us", "most", 1.6),
    ("write at depth 32, daemon CPU us", WRITE_32, "daemon_cpu_us", "most", 40),
    ("read at depth 32, daemon CPU us", READ_32, "daemon_cpu_us", "most", 10),
    ("writes/s at depth 32", WRITE_32, "iops", "least", 25_000),
    ("reads/s at depth 32", READ_32, "iops", "least", 60_000),
)
WANTED_IDLE = (
    ("idle daemon, MiB", "rss_mib", "most", 100),
    ("idle daemon, % of a core", "cpu_percent", "most", 1),
)


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, env=None):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise Failure(f"{' '.join(command)}: exit {done.returncode}: {' | '.join(lines[-3:])}")
    return done.stdout


def size_of(text):
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text}")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


# ---- CPU, twice: the daemons, and the whole machine less idle ----


def machine_seconds_busy():
    """All cores since boot, less idle, waiting for I/O and what the host stole. (The busy columns of /proc/stat are
    sampled at ticks and miss short work; the idle ones are measured.)"""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    not_busy = fields[3] + fields[4] + fields[7]
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.cpu_count() - not_busy / TICKS


def process_ticks(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        raise Failure(f"process {pid} is gone") from None
    return int(fields[11]) + int(fields[12])  # utime, stime: all its threads


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.M)[1]) / 1024


class Meter:
    """CPU since it was made."""

    def __init__(self, pids):
        self.pids = pids
        self.daemons = [process_ticks(pid) for pid in pids]
        self.machine = machine_seconds_busy()

    def daemon_seconds(self):
        return [(process_ticks(pid) - was) / TICKS for pid, was in zip(self.pids, self.daemons)]

    def machine_seconds(self):
        return machine_seconds_busy() - self.machine


# ---- running a job ----


def run_floor(program, folder, seconds, jobs):
    """Figures by job, from one run of bench-floor."""
    lines = run(program, "--dir", folder, "--seconds", str(seconds), *jobs).splitlines()
    return dict(zip(jobs, map(json.loads, lines)))


@dataclasses.dataclass
class Target:
    """An NBD export and the processes behind it."""

    uri: str
    pids: list
    size: int  # bytes of it that are used
    log_size: int = 0  # bytes of log that a lap of writes fills; 0: write jobs go by time


def fio_length(job, target, seconds):
    """How long: by the clock, or for writes as many bytes as make LAPS laps."""
    if job.write_share == 0 or target.log_size == 0:
        return ("--time_based", f"--runtime={seconds}")
    return (f"--io_size={int(LAPS * target.log_size / job.write_share)}",)


def run_fio(target, name, arguments):
    command = ["fio", f"--name={name}", "--ioengine=nbd", f"--uri={target.uri}", f"--size={target.size}",
               "--output-format=json", "--clat_percentiles=0", "--lat_percentiles=1",
               "--percentile_list=50:95:99", *arguments]
    # fio puts its notes before the JSON.
    text = run(*command)
    result = json.loads(text[text.index("{"):])["jobs"][0]
    if result["error"]:
        raise Failure(f"fio {name}: {os.strerror(result['error'])}")
    return result


def latencies(sides):
    """p50, p95, p99, max in microseconds; of a mix the worse of both sides, as fio does not merge them."""
    found = {}
    for key, percentile in (("p50_us", "50.000000"), ("p95_us", "95.000000"), ("p99_us", "99.000000")):
        found[key] = max(side["lat_ns"]["percentile"][percentile] for side in sides) / 1e3
    found["max_us"] = max(side["lat_ns"]["max"] for side in sides) / 1e3
    return found


def run_job(target, job, seconds):
    meter = Meter(target.pids)
    result = run_fio(target, job.title.replace(" ", "-").replace("/", "-"),
                     (*job.fio, f"--iodepth={job.depth}", *fio_length(job, target, seconds)))
    daemon, machine = sum(meter.daemon_seconds()), meter.machine_seconds()
    sides = [result[side] for side in ("read", "write") if result[side]["total_ios"]]
    ios = sum(side["total_ios"] for side in sides)
    duration = result["job_runtime"] / 1e3
    client = (result["usr_cpu"] + result["sys_cpu"]) / 100 * duration
    return {
        "seconds": duration,
        "ios": ios,
        "iops": ios / duration,
        "mib_per_s": sum(side["io_bytes"] for side in sides) / MIB / duration,
        **latencies(sides),
        "daemon_cpu_us": daemon / ios * 1e6,
        "machine_cpu_us": machine / ios * 1e6,
        "client_cpu_us": client / ios * 1e6,
    }


def measure_idle(pids, seconds, when):
    """The worst of the daemons."""
    meter = Meter(pids)
    time.sleep(seconds)
    return {
        "when": when,
        "seconds": seconds,
        "rss_mib": max(resident_mib(pid) for pid in pids),
        "cpu_percent": max(meter.daemon_seconds()) / seconds * 100,
    }


# ---- from rounds to a result ----


def median_of(rounds):
    """Figure by figure; the worst of the maxima."""
    result = {key: statistics.median(figures[key] for figures in rounds)
              for key, value in rounds[0].items() if isinstance(value, (int, float))}
    result["max_us"] = max(figures["max_us"] for figures in rounds)
    return result


def ratios(rounds, floors):
    """Each round is compared with the floor that ran right before it: a busy hour slows both."""
    return {f"x_{key}": statistics.median(mine[key] / floor[key] for mine, floor in zip(rounds, floors))
            for key in ("iops", "p50_us", "p99_us", "daemon_cpu_us", "machine_cpu_us")
            if all(floor[key] for floor in floors)}


def measure(target, floor, options, jobs=JOBS):
    """Interleaves the jobs with their floors; returns a row for each job."""
    taken = {job: ([], []) for job in jobs}
    for number in range(options.rounds):
        for job in jobs:
            say(f"round {number + 1}/{options.rounds}: {job.title}")
            if job.floor:
                taken[job][1].append(floor(job.floor))
            taken[job][0].append(run_job(target, job, options.seconds))
    rows = []
    for job, (rounds, floors) in taken.items():
        rows.append({"job": job.title, "figures": median_of(rounds), "rounds": rounds})
        if floors:
            rows[-1].update(floor=median_of(floors), floor_rounds=floors, ratios=ratios(rounds, floors))
    return rows


def fill(target):
    """Every block is written before it is measured: a read of an unwritten one costs nothing."""
    say(f"fill: {target.size // MIB} MiB")
    run_fio(target, "fill", ("--bs=1M", "--rw=write", "--iodepth=8"))


def verdict(what, measured, bound, limit):
    return {"what": what, "measured": measured, "wanted": f"{'<=' if bound == 'most' else '>='} {limit}",
            "met": measured <= limit if bound == "most" else measured >= limit}


def verdicts(rows, idle):
    by_job = {row["job"]: {**row["figures"], **row.get("ratios", {})} for row in rows}
    found = [verdict(what, by_job[job.title][figure], bound, limit)
             for what, job, figure, bound, limit in WANTED if job.title in by_job]
    for what, figure, bound, limit in WANTED_IDLE:
        if idle:
            found.append(verdict(what, max(sample[figure] for sample in idle), bound, limit))
    return found


# ---- the tables ----

COLUMNS = (("iops", "IOPS", 9, 0), ("mib_per_s", "MiB/s", 8, 0), ("p50_us", "p50", 9, 1), ("p95_us", "p95", 9, 1),
           ("p99_us", "p99", 9, 1), ("max_us", "max", 10, 0), ("daemon_cpu_us", "daemons", 9, 1),
           ("machine_cpu_us", "machine", 9, 1), ("client_cpu_us", "client", 8, 1))
RATIOS = (("x_iops", "xIOPS", 7), ("x_p50_us", "xp50", 7), ("x_daemon_cpu_us", "xCPU", 7))


def print_header(with_ratios):
    print(f"{'':18}{'':9}{'':8}{'latency, us':>37}{'CPU per I/O, us':>26}")
    print(f"{'job depth':18}" + "".join(f"{title:>{width}}" for _, title, width, _ in COLUMNS) +
          ("".join(f"{title:>{width}}" for _, title, width in RATIOS) if with_ratios else ""))


def print_figures(title, figures, found=None):
    line = f"{title:18}"
    for key, _, width, digits in COLUMNS:
        line += f"{figures[key]:{width}.{digits}f}" if key in figures else f"{'':{width}}"
    for key, _, width in RATIOS if found else ():
        line += f"{found[key]:{width}.2f}"
    print(line)


def print_rows(rows):
    print_header(any("ratios" in row for row in rows))
    for row in rows:
        print_figures(row["job"], row["figures"], row.get("ratios"))
        if "floor" in row:
            print_figures("  floor", row["floor"])


def print_idle(idle):
    for sample in idle:
        print(f"idle daemon, {sample['when']}: {sample['rss_mib']:.1f} MiB, "
              f"{sample['cpu_percent']:.2f} % of a core (the worst of them, {sample['seconds']:g} s)")


def print_verdicts(found):
    for one in found:
        print(f"{'met   ' if one['met'] else 'MISSED'}  {one['what']}: {one['measured']:.2f}, wanted {one['wanted']}")


# ---- the cluster under test ----


def s2dd_pids(folder):
    """The daemons of a devcluster: s2dd with a --dir below `folder`."""
    pids = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.path.basename(words[0]) == "s2dd" and any(word.startswith(folder + "/") for word in words[1:]):
            pids.append(int(entry))
    return sorted(pids)


def log_bytes_per_node(s2d):
    """What a lap is: every node gets every write of a three-way mirror, spread over the logs of its disks."""
    logs = {}
    for disk in s2d("disk", "list"):
        shown = s2d("disk", "show", str(disk["id"]))
        if "log_bytes" not in shown:
            raise Failure("s2d disk show --json has no log_bytes: give --log-size")
        logs[shown["node"]] = logs.get(shown["node"], 0) + shown["log_bytes"]
    return max(logs.values())


@contextlib.contextmanager
def devcluster(options, folder, nodes=3):
    """A cluster; yields (s2d, folder, environment), where s2d(...) returns what the verb printed as JSON."""
    tool = os.path.join(ROOT, "tools/devcluster")
    say(f"devcluster up, {options.disks} a node, preallocated")
    try:
        run(tool, "up", "--nodes", str(nodes), "--disks", options.disks, "--preallocate", "--dir", folder)
        shell = run("sh", "-c", 'eval "$("$0" env --dir "$1")"; exec env -0', tool, folder)
        environment = dict(line.split("=", 1) for line in shell.split("\0") if line)
        yield lambda *words: json.loads(run("s2d", "--json", "--yes", *words, env=environment) or "null")
    finally:
        subprocess.run([tool, "down", "--dir", folder], stdout=subprocess.DEVNULL, check=False)


def create_target(s2d, options, folder):
    """A three-way mirror with one file, by the owner's NBD socket."""
    size = options.size or 1 << 30
    s2d("volume", "create", "bench", "--size", str(size + size // 8), "--resiliency", "mirror3", "--fixed")
    s2d("file", "create", "bench/disk", "--size", str(size))
    owner = str(s2d("volume", "show", "bench")["owner"])
    number = re.search(r"\d+$", owner)
    if not number:
        raise Failure(f"the owner of the volume is '{owner}', not a node of this cluster")
    socket = os.path.join(folder, f"node{number[0]}", "nbd.sock")
    pids = s2dd_pids(folder)
    if len(pids) != 3:
        raise Failure(f"{len(pids)} s2dd processes below {folder}, not 3")
    return Target(f"nbd+unix:///bench/disk?socket={socket}", pids, size, options.log_size or log_bytes_per_node(s2d))


# ---- the commands ----


def bench_floor(options, floor_program, folder):
    jobs = [job.floor for job in JOBS if job.floor]
    rounds = []
    for number in range(options.rounds):
        say(f"round {number + 1}/{options.rounds}: floor")
        rounds.append(run_floor(floor_program, folder, options.seconds, jobs))
    rows = [{"job": job.title, "figures": median_of([one[job.floor] for one in rounds]),
             "rounds": [one[job.floor] for one in rounds]} for job in JOBS if job.floor]
    return rows, []


def bench_nbd(options, floor_program, folder):
    uri = f"nbd+unix:///{options.export}?socket={os.path.abspath(options.socket)}"
    size = int(run("nbdinfo", "--size", uri))
    target = Target(uri, options.pids, min(size, options.size or size), options.log_size or 0)
    fill(target)
    return measure(target, floor_of(options, floor_program, folder), options), []


def bench_volume(options, floor_program, folder):
    cluster = os.path.join(folder, "cluster")
    with devcluster(options, cluster) as s2d:
        target = create_target(s2d, options, cluster)
        idle = [measure_idle(target.pids, options.seconds, "fresh")]
        fill(target)
        rows = measure(target, floor_of(options, floor_program, folder), options)
        time.sleep(options.seconds)  # background work of the last job
        idle.append(measure_idle(target.pids, options.seconds, "after the load"))
        return rows, idle


def bench_idle(options, floor_program, folder):
    cluster = os.path.join(folder, "cluster")
    with devcluster(options, cluster) as s2d:
        target = create_target(s2d, options, cluster)
        return [], [measure_idle(target.pids, options.seconds, "fresh")]


def floor_of(options, program, folder):
    return lambda job: run_floor(program, folder, options.seconds, [job])[job]


def bench_parity(options, floor_program, folder):
    sys.modules.setdefault("bench", sys.modules[__name__])  # it calls us back
    import bench_parity as parity  # pylint: disable=import-outside-toplevel

    return parity.run(options, floor_program, folder)


def bench_hybrid(options, floor_program, folder):
    sys.modules.setdefault("bench", sys.modules[__name__])  # it calls us back
    import bench_hybrid as hybrid  # pylint: disable=import-outside-toplevel

    return hybrid.run(options, floor_program, folder)


EXTRA_TARGETS = {"parity": ["bench_mirror"], "hybrid": ["bench_store"]}
COMMANDS = {"floor": bench_floor, "volume": bench_volume, "nbd": bench_nbd, "idle": bench_idle, "parity": bench_parity,
            "hybrid": bench_hybrid}


def run_visibly(*command):
    """Runs a command whose progress and complaints people want to see."""
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise Failure(f"{shlex.join(command)} failed")


def build(options):
    """Builds what is needed; returns the path of bench-floor."""
    folder = os.path.abspath(options.build_dir or os.path.join(ROOT, "build"))
    if options.build_dir:
        run_visibly("cmake", "--build", folder, "--target", "bench-floor", *EXTRA_TARGETS.get(options.what, []))
    else:
        of_cluster = options.what in ("volume", "idle", "parity", "hybrid")
        targets = ["all", *EXTRA_TARGETS.get(options.what, [])] if of_cluster else ["bench-floor"]
        run_visibly(os.path.join(ROOT, "tools/install-packages"), "test", *(["run"] if of_cluster else []))
        run_visibly(os.path.join(ROOT, "tools/build"), "release", *targets)
    return os.path.join(folder, "tools/bench-floor")


def parse_options():
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=COMMANDS, default="volume")
    parser.add_argument("--seconds", type=float, default=10, help="a floor, read or idle job takes this long (10)")
    parser.add_argument("--rounds", type=int, default=2, help="how often; figures are medians (2)")
    parser.add_argument("--json", metavar="FILE", help="everything measured, for programs")
    parser.add_argument("--dir", default="/var/tmp", help="where disks and logs go, in a folder removed at the end; "
                        "not a tmpfs (/var/tmp)")
    parser.add_argument("--build-dir", metavar="DIR", help="take bench-floor from here (build/, by tools/build)")
    parser.add_argument("--size", type=size_of, help="bytes of the file or export to use (1G; nbd: all)")
    parser.add_argument("--log-size", type=size_of, help=f"bytes of log per node: write jobs write {LAPS} times as much "
                        "(volume: as the daemons say; nbd: write jobs go by --seconds)")
    parser.add_argument("--disks", default="ssd:1x2G", help="of a node (ssd:1x2G)")
    parser.add_argument("--socket", help="nbd: the server's Unix socket")
    parser.add_argument("--export", default="", help="nbd: the export's name")
    parser.add_argument("--pids", type=lambda text: [int(pid) for pid in text.split(",")], default=[],
                        help="nbd: the servers' process ids, as 1,2,3")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds are above 0")
    if options.what == "nbd" and not (options.socket and options.pids):
        parser.error("nbd needs --socket and --pids")
    return options


def describe_machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=False)
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count(), "kernel": platform.release(),
            "commit": commit.stdout.strip(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def bench(options):
    folder = tempfile.mkdtemp(prefix="s2d-bench-", dir=options.dir)
    try:
        rows, idle, *found = COMMANDS[options.what](options, build(options), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if found:
        found = found[0]
    elif options.what != "floor":
        found = verdicts(rows, idle)
    if rows:
        print_rows(rows)
    print_idle(idle)
    print_verdicts(found)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({**describe_machine(), "command": sys.argv[1:], "jobs": rows, "idle": idle, "verdicts": found},
                      file, indent=2)
    return all(one["met"] for one in found)


def main():
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is taken down
    try:
        met = bench(options)
    except Failure as failure:
        say(f"tools/bench: {failure}")
        met = False
    except KeyboardInterrupt:
        sys.exit(130)
    if not met:
        say("repeat with: " + shlex.join(["tools/bench", *sys.argv[1:]]))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
