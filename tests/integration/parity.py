#!/usr/bin/env python3
"""Dual parity on five real daemons, 2+2 columns: two nodes die under load, the owner first; what was acknowledged reads back without
them; they heal; then two others die, and it reads back from what was healed."""
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tools/py")]

from lab import Failed, Lab  # noqa: E402
from nbd_client import Writer  # noqa: E402

FILE = "v/file"
WRITERS, BLOCKS = 4, 400


def judge(writers, socket, when):
    for writer in writers:
        if writer.errors:
            raise Failed(f"writer {writer.number} saw errors: {writer.errors[:3]}")
        wrong = writer.wrong(socket)
        if wrong:
            raise Failed(f"{when}: acknowledged writes are lost or wrong:\n  " + "\n  ".join(wrong[:10]))


def count(writers):
    return sum(writer.writes for writer in writers)


def await_writes(lab, writers, more):
    """The writers go on, all together by so many."""
    wanted = count(writers) + more
    return lab.stalls(lambda: count(writers) >= wanted)


def lose_two(lab, socket):
    writers = [Writer(socket, FILE, number, BLOCKS, 1) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    await_writes(lab, writers, 500)
    owner = lab.owner("v", node=5)
    lost = [owner, owner % 4 + 1] if owner != 5 else [1, 2]
    for node in lost:
        lab.devcluster("kill", node)
        await_writes(lab, writers, 500)
    for writer in writers:
        writer.finish()
    judge(writers, socket, f"without nodes {lost}")
    return writers, lost


def main():
    with tempfile.TemporaryDirectory(prefix="s2d-parity.", dir="/var/tmp") as folder:
        lab = Lab(pathlib.Path(folder) / "cluster")
        try:
            lab.devcluster("up", "--nodes", 5, "--disks", "ssd:1x1G")
            lab.s2d("volume", "create", "v", "--size", "256M", "--resiliency", "parity2", "--columns", "2+2")
            lab.s2d("file", "create", FILE, "--size", "64M")
            if lab.json("volume", "show", "v")["columns"] != "2+2":
                raise Failed("the volume does not say which columns it has")
            refused = lab.s2d("volume", "create", "w", "--size", "256M", "--resiliency", "parity2", "--columns", "4+2", check=False)
            if refused.returncode == 0 or "6 nodes" not in refused.stderr:
                raise Failed(f"4+2 on five nodes: {refused.stderr.strip()}")
            socket = lab.node_dir(5) / "nbd.sock"
            writers, lost = lose_two(lab, socket)
            for node in lost:
                lab.devcluster("start", node)
            lab.wait_healthy(120)
            others = [node for node in (1, 2, 3, 4) if node not in lost]
            for node in others:
                lab.devcluster("kill", node)
                time.sleep(2)  # the rest has to see it before the next, or a quorum is gone with both
            judge(writers, socket, f"healed, without nodes {others}")
            print(f"{count(writers)} acknowledged writes, read back without nodes {lost}, and healed without {others}")
            return 0
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            print(f"FAILED: {failure}", flush=True)
            for log in sorted(lab.dir.glob("node*/s2dd.log")):
                print(f"--- {log.parent.name}", *log.read_text(errors="replace").splitlines()[-30:], sep="\n")
            return 1
        finally:
            lab.devcluster("down")


sys.exit(main())
