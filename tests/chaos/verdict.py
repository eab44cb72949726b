"""What must be true at the end, of the whole cluster."""
import json
import re
import shutil
import time

from lab import Failed

# Words that no daemon says in order: asserts, sanitizers, signals, stores that gave up.
BAD = re.compile(r"[Aa]ssertion|AddressSanitizer|LeakSanitizer|runtime error:|SIGSEGV|core dumped|level=fatal|stack smashing|double free|"
                 r"corrupted|someone else has written in our session")


def look_at_logs(lab):
    for log in sorted(lab.dir.glob("node*/s2dd.log")):
        with open(log, errors="replace") as lines:
            for line in lines:
                if BAD.search(line):
                    raise Failed(f"{log.parent.name} says: {line.strip()}")


def check_volume(lab, volume):
    """Every copy of every block, read and compared, and the file system's structures."""
    done = lab.s2d("--json", "volume", "check", volume, timeout=600, check=False)
    if done.returncode != 0:
        raise Failed(f"volume check {volume}: {(done.stdout + done.stderr).strip()[-1500:]}")
    seen = json.loads(done.stdout)
    if seen["rotten_bytes"] or seen["different_bytes"] or seen["unread_bytes"] or seen["problems"]:
        raise Failed(f"volume check {volume}: {json.dumps(seen)[:1500]}")
    return f"{seen['compared_bytes'] >> 20} MiB of copies are equal and match their checksums; {seen['inodes']} files and directories"


def stop_all(lab, nodes):
    """A daemon with a request or coroutine that never ends does not stop in time."""
    longest = 0.0
    for node in range(nodes, 0, -1):
        begun = time.monotonic()
        lab.devcluster("stop", node)
        longest = max(longest, time.monotonic() - begun)
    return f"{nodes} daemons, longest {longest:.1f} s"


def keep_logs(lab, folder, seed):
    place = folder / str(seed)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for log in lab.dir.glob("node*/s2dd.log"):
        shutil.copy(log, place / f"{log.parent.name}.log")
    for log in lab.dir.glob("node*/vms/*/console.log"):
        shutil.copy(log, place / f"{log.parent.parent.parent.name}-console.log")
    return place
