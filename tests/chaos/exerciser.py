#!/usr/bin/env python3
"""A small file-system exerciser: does what programs do in a directory of a mount, and knows what must be there.

usage: exerciser.py run ROOT MODEL SEED     works in ROOT until SIGTERM, then writes what must be there to MODEL
       exerciser.py check ROOT MODEL        compares ROOT, perhaps on another node's mount, with MODEL

ROOT is written to by this process alone, so the model is exact: every call that returned is there. A mount dies with its daemon; a call
that it took along may have happened or not, and the exerciser looks which, once the mount is back. Every other error is a finding, as is
any difference: one line on standard output, and exit status 1. The last line is a JSON object of figures.
"""
import errno
import json
import os
import pathlib
import pickle
import random
import signal
import stat
import sys
import time

FILES, DIRECTORIES = 40, 8
FILE_BYTES = 768 << 10
MOUNT_GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ESTALE, errno.EBADF, errno.EIO}
BACK_SECONDS = 180


class Found(Exception):
    """Not as it must be."""


class Exerciser:
    """The model: directories, and path → contents. Paths are relative to ROOT, its own directory."""

    def __init__(self, root, seed):
        self.root = pathlib.Path(root)
        self.mount = self.root.parent
        self.random = random.Random(seed)
        self.directories = [""]
        self.files = {}
        self.version = 0
        self.counts = {}
        self.longest = 0.0
        self.interrupted = 0
        self.ended = False

    def path(self, name):
        return self.root / name

    def life(self):
        """Names the mount as it is now; another after its daemon's restart (device numbers are used again). None: it does not answer."""
        try:
            return os.stat(self.root).st_dev, (self.mount.parent.parent / "s2dd.pid").read_text()
        except OSError:
            return None

    # ---- a call and its outcome ----

    def wait_for_mount(self):
        deadline = time.monotonic() + BACK_SECONDS
        while True:
            try:
                if os.path.ismount(self.mount) and stat.S_ISDIR(os.stat(self.root).st_mode):
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise Found(f"{self.mount} is not back after {BACK_SECONDS} s")
            time.sleep(0.1)

    def attempt(self, kind, action, done, undone):
        """Runs action(); then the model becomes done(). If the mount died under it: looks which of done() and undone() it is."""
        before = self.life()
        begun = time.monotonic()
        try:
            action()
        except OSError as error:
            after = self.life()
            if error.errno not in MOUNT_GONE and before is not None and after == before:
                raise Found(f"{kind}: {error}") from None
            if error.errno in MOUNT_GONE and before is not None and after == before:
                time.sleep(1)  # the end of a mount may be seen by a call before it is seen by stat
                if self.life() == before:
                    raise Found(f"{kind}: {error}, and the mount is as it was") from None
            self.interrupted += 1
            self.wait_for_mount()
            self.resolve(kind, done, undone)
            return
        done()
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.longest = max(self.longest, time.monotonic() - begun)

    def resolve(self, kind, done, undone):
        """Which of the two is there? Each changes the model and returns the names it is about."""
        saved = (list(self.directories), dict(self.files))
        wrong = []
        for outcome in (undone, done):
            self.directories, self.files = list(saved[0]), dict(saved[1])
            names = outcome() or []
            while True:
                try:
                    wrong = [problem for name in names for problem in self.differences(name)]
                    break
                except OSError as error:  # it died again
                    if error.errno not in MOUNT_GONE:
                        raise
                    time.sleep(0.2)
                    self.wait_for_mount()
            if not wrong:
                return
        raise Found(f"{kind}, cut short by the end of the mount, is neither done nor undone: {wrong[0]}")

    # ---- comparing ----

    def differences(self, name):
        """How the file or directory differs from the model; '' of ROOT itself is there always."""
        path = self.path(name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return [f"{name} is not there"] if name in self.files or name in self.directories else []
        if stat.S_ISDIR(status.st_mode):
            return [] if name in self.directories else [f"{name} is a directory that should not be there"]
        if name not in self.files:
            return [f"{name} should not be there"]
        expected = self.files[name]
        if status.st_size != len(expected):
            return [f"{name} has {status.st_size} bytes instead of {len(expected)}"]
        with open(path, "rb") as file:
            seen = file.read()
        if seen == expected:
            return []
        at = next((i for i in range(min(len(seen), len(expected))) if seen[i] != expected[i]), len(seen))
        return [f"{name} differs at byte {at} of {len(expected)}: {seen[at:at + 16].hex()} instead of {expected[at:at + 16].hex()}"]

    def compare_all(self):
        wrong = [problem for name in self.files for problem in self.differences(name)]
        for directory in self.directories:
            expected = {name.rpartition("/")[2] for name in [*self.files, *self.directories]
                        if name and name.rpartition("/")[0] == directory}
            seen = set(os.listdir(self.path(directory)))
            if seen != expected:
                wrong.append(f"directory '{directory}': too much {sorted(seen - expected)}, missing {sorted(expected - seen)}")
        return wrong

    # ---- what it does ----

    def data(self, length):
        self.version += 1
        return random.Random(self.version * 1000003 + length).randbytes(length)

    def new_name(self):
        directory = self.random.choice(self.directories)
        name = f"f{self.random.randrange(FILES * 4)}"
        return f"{directory}/{name}" if directory else name

    def some_file(self):
        return self.random.choice(sorted(self.files)) if self.files else None

    def set_file(self, name, contents):
        self.files[name] = contents
        return [name]

    def unset_file(self, name):
        self.files.pop(name, None)
        return [name]

    def same(self, *names):
        return lambda: list(names)

    def create(self):
        name, data = self.new_name(), self.data(self.random.choice([0, 1, 4095, 4096, 5000, 70000, 262144]))
        if name in self.files or len(self.files) >= FILES:
            return

        def action():
            handle = os.open(self.path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.close(handle)

        self.attempt("create", action, lambda: self.set_file(name, b""), self.same(name))
        if name in self.files:
            self.write_at(name, 0, data)

    def write_at(self, name, offset, data):
        """In pieces of one call each: a call that returned has happened, one that died may have, in part."""
        old = self.files[name]
        for at in range(0, len(data), 131072):
            piece, place = data[at:at + 131072], offset + at
            old = self.files[name]
            new = old[:place].ljust(place, b"\0") + piece + old[place + len(piece):]

            def action():
                handle = os.open(self.path(name), os.O_WRONLY)
                try:
                    written = os.pwrite(handle, piece, place)
                finally:
                    os.close(handle)
                if written != len(piece):
                    raise OSError(errno.EIO, f"write of {len(piece)} bytes to {name} wrote {written}")

            try:
                self.attempt("write", action, lambda: self.set_file(name, new), self.same(name))
            except Found as found:
                if "neither done nor undone" not in str(found):
                    raise
                self.accept_partial_write(name, old, piece, place)
            if self.files[name] != new:
                return

    def accept_partial_write(self, name, old, piece, place):
        """A write that died under way is no promise: each of its bytes is the old or the new one."""
        with open(self.path(name), "rb") as file:
            seen = file.read()
        new = old[:place].ljust(place, b"\0") + piece + old[place + len(piece):]
        longest = max(len(old), len(new))
        if not min(len(old), place) <= len(seen) <= longest:
            raise Found(f"{name} has {len(seen)} bytes after a write of {len(piece)} at {place} to {len(old)} died")
        for i, byte in enumerate(seen):
            if byte not in (old[i] if i < len(old) else 0, new[i] if i < len(new) else 0):
                raise Found(f"{name}: byte {i} is neither old nor new after a write that died")
        self.files[name] = seen

    def write(self):
        name = self.some_file()
        if name:
            offset = self.random.randrange(max(1, min(len(self.files[name]) + 8192, FILE_BYTES - 262144)))
            self.write_at(name, offset, self.data(self.random.choice([1, 100, 4096, 10000, 131072, 200000])))

    def truncate(self):
        name = self.some_file()
        if not name:
            return
        old, size = self.files[name], self.random.randrange(FILE_BYTES)
        self.attempt("truncate", lambda: os.truncate(self.path(name), size),
                     lambda: self.set_file(name, old[:size].ljust(size, b"\0")), self.same(name))

    def rename(self):
        old, new = self.some_file(), self.new_name()
        if not old or old == new:
            return

        def done():
            self.files[new] = self.files.pop(old)
            return [old, new]

        self.attempt("rename", lambda: os.rename(self.path(old), self.path(new)), done, self.same(old, new))

    def unlink(self):
        name = self.some_file()
        if name:
            self.attempt("unlink", lambda: os.unlink(self.path(name)), lambda: self.unset_file(name), self.same(name))

    def compare(self, kind, differences):
        """A difference counts when the mount was the same from the first look to the last."""
        while True:
            before, begun, wrong = self.life(), time.monotonic(), []
            try:
                wrong = differences()
            except OSError as error:
                wrong = [f"{kind}: {error}"]
            if not wrong:
                break
            time.sleep(0.5 if before else 0.1)
            if before and self.life() == before:
                raise Found(wrong[0])
            self.interrupted += 1
            self.wait_for_mount()
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.longest = max(self.longest, time.monotonic() - begun)

    def read(self):
        name = self.some_file()
        if name:
            self.compare("read", lambda: self.differences(name))

    def make_directory(self):
        name = f"d{self.random.randrange(DIRECTORIES)}"
        if name in self.directories:
            return

        def done():
            self.directories.append(name)
            return [name]

        self.attempt("mkdir", lambda: os.mkdir(self.path(name)), done, self.same(name))

    def remove_directory(self):
        name = self.random.choice(self.directories)
        if not name or any(file.startswith(name + "/") for file in self.files):
            return

        def done():
            self.directories.remove(name)
            return [name]

        self.attempt("rmdir", lambda: os.rmdir(self.path(name)), done, self.same(name))

    def list(self):
        self.compare("list", self.compare_all)

    def run(self):
        work = [(self.create, 6), (self.write, 10), (self.read, 8), (self.truncate, 2), (self.rename, 3), (self.unlink, 3),
                (self.make_directory, 1), (self.remove_directory, 1), (self.list, 0.3)]
        self.wait_for_mount()
        while not self.ended:
            self.random.choices([action for action, _ in work], [weight for _, weight in work])[0]()
            time.sleep(0.01)
        self.list()


def run(root, model, seed):
    exerciser = Exerciser(root, seed)

    def end(*_):
        exerciser.ended = True

    signal.signal(signal.SIGTERM, end)
    status = 0
    try:
        exerciser.run()
    except Found as found:
        print(f"found: {found}", flush=True)
        status = 1
    pathlib.Path(model).write_bytes(pickle.dumps((exerciser.directories, exerciser.files)))
    print(json.dumps({"calls": exerciser.counts, "interrupted": exerciser.interrupted, "longest": round(exerciser.longest, 2)}))
    return status


def check(root, model):
    exerciser = Exerciser(root, 0)
    exerciser.directories, exerciser.files = pickle.loads(pathlib.Path(model).read_bytes())
    wrong = exerciser.compare_all()
    for problem in wrong[:10]:
        print(f"found: {problem}")
    print(json.dumps({"files": len(exerciser.files), "bytes": sum(map(len, exerciser.files.values()))}))
    return 1 if wrong else 0


def main():
    arguments = sys.argv[1:]
    if len(arguments) == 4 and arguments[0] == "run":
        return run(arguments[1], arguments[2], int(arguments[3]))
    if len(arguments) == 3 and arguments[0] == "check":
        return check(*arguments[1:])
    print(__doc__.strip())
    return 0 if arguments in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    sys.exit(main())
