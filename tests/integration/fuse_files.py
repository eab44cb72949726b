"""fuse_files.py DIRECTORY…: what programs do with files, on mounts of one volume (one to a node). Each check says what
it is about; an exception is a failure."""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import sqlite3
import stat
import sys

MOUNTS = sys.argv[1:]
A, B = MOUNTS[0], MOUNTS[-1]
libc = ctypes.CDLL(None, use_errno=True)


def check(name):
    def wrap(function):
        print("==", name, flush=True)
        function()
        return function

    return wrap


def fails(error, function, *arguments):
    try:
        function(*arguments)
    except OSError as e:
        assert e.errno == error, f"{function.__name__}{arguments}: {e}, not {errno.errorcode[error]}"
        return
    raise AssertionError(f"{function.__name__}{arguments} did not fail with {errno.errorcode[error]}")


def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def handle_of(path):
    handle = Handle(bytes=128)
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(ctypes.c_int()), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def open_handle(mount, handle):
    where = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    fd = libc.open_by_handle_at(where, ctypes.byref(handle), os.O_RDONLY)
    error = ctypes.get_errno()
    os.close(where)
    if fd < 0:
        raise OSError(error, "open_by_handle_at")
    return fd


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


@check("handles name files and directories that a node's kernel has not seen, until they are removed")
def _():
    os.makedirs(A + "/handles/deep")
    write(A + "/handles/deep/file", b"by its handle")
    file, directory = handle_of(A + "/handles/deep/file"), handle_of(A + "/handles/deep")
    fd = open_handle(B, directory)
    assert os.listdir(fd) == ["file"]
    os.close(fd)
    fd = open_handle(B, file)
    assert os.read(fd, 100) == b"by its handle"
    os.close(fd)
    os.unlink(A + "/handles/deep/file")
    fails(errno.ESTALE, open_handle, A, file)
    os.rmdir(A + "/handles/deep")
    fails(errno.ESTALE, open_handle, A, directory)
    os.rmdir(A + "/handles")


@check("copy_file_range: clones what it can, copies the rest; both sides are apart later")
def _():
    size = 3 * 1024 * 1024 + 777
    data = bytearray(os.urandom(size))
    write(A + "/from", data)
    write(B + "/to", b"")
    with open(A + "/from", "rb+") as source, open(A + "/to", "rb+") as target:
        done = 0
        while done < size:
            done += os.copy_file_range(source.fileno(), target.fileno(), size - done, done, done)
        assert os.copy_file_range(source.fileno(), target.fileno(), 10, size, size) == 0
        assert read(B + "/to") == data
        os.pwrite(source.fileno(), b"source", 100000)
        os.pwrite(target.fileno(), b"target", 200000)
        assert read(B + "/to") == data[:200000] + b"target" + data[200006:]
        data[100000:100006] = b"source"
        expected = bytearray(read(B + "/to"))
        for _ in range(100):  # edges, offsets that cannot be shared, within one file
            at, to = random.randrange(size), random.randrange(size)
            if random.random() < 0.7:
                to += (at - to) % 4096
            length = random.randrange(1, 300000)
            got = os.copy_file_range(source.fileno(), target.fileno(), length, at, to)
            assert 0 < got <= length
            piece = data[at : at + got]
            expected[len(expected) : to] = bytes(max(0, to - len(expected)))
            expected[to : to + got] = piece
        assert read(B + "/to") == expected
        assert read(B + "/from") == data
    for name in ("/from", "/to"):
        os.unlink(B + name)


@check("close-to-open: what one node has written, the next to open it sees")
def _():
    for i in range(50):
        writer, reader = MOUNTS[i % len(MOUNTS)], MOUNTS[(i + 1) % len(MOUNTS)]
        data = os.urandom(random.randrange(1, 300000))
        write(f"{writer}/shared", data)
        assert read(f"{reader}/shared") == data
        assert os.stat(f"{reader}/shared").st_size == len(data)


@check("an open directory that is removed, or replaced by another, still has attributes")
def _():
    for replace in (False, True):
        for name in ("/old", "/new"):
            os.mkdir(A + name)
        fd = os.open(A + "/old", os.O_RDONLY | os.O_DIRECTORY)
        if replace:
            os.rename(B + "/new", B + "/old")
        else:
            os.rmdir(B + "/new")
        os.rmdir(B + "/old")
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)


@check("an open file sees other nodes' writes at its next read")
def _():
    write(f"{A}/live", b"a" * 8192)
    with open(f"{B}/live", "rb", buffering=0) as file:
        assert file.read(4096) == b"a" * 4096
        with open(f"{A}/live", "r+b", buffering=0) as other:
            other.write(b"b" * 8192)
        assert os.pread(file.fileno(), 8192, 0) == b"b" * 8192


@check("names: rename and its flags, links, directories")
def _():
    os.mkdir(f"{A}/d")
    write(f"{A}/d/x", b"x")
    write(f"{A}/d/y", b"y")
    renameat2(f"{A}/d/x", f"{A}/d/y", 2)
    assert (read(f"{B}/d/x"), read(f"{B}/d/y")) == (b"y", b"x")
    fails(errno.EEXIST, renameat2, f"{A}/d/x", f"{A}/d/y", 1)
    renameat2(f"{A}/d/x", f"{A}/d/z", 1)
    fails(errno.EINVAL, renameat2, f"{A}/d/z", f"{A}/d/y", 4)
    os.rename(f"{A}/d/z", f"{A}/d/y")
    assert os.listdir(f"{B}/d") == ["y"]
    os.link(f"{A}/d/y", f"{A}/d/hard")
    assert os.stat(f"{B}/d/hard").st_nlink == 2
    assert os.stat(f"{B}/d/hard").st_ino == os.stat(f"{B}/d/y").st_ino
    os.symlink("y", f"{A}/d/soft")
    assert os.readlink(f"{B}/d/soft") == "y" and read(f"{B}/d/soft") == b"y"
    fails(errno.ENOTEMPTY, os.rmdir, f"{A}/d")
    fails(errno.ENAMETOOLONG, os.mkdir, f"{A}/{'n' * 256}")
    os.mkdir(f"{A}/{'n' * 255}")
    os.rmdir(f"{B}/{'n' * 255}")
    fails(errno.ENOENT, os.stat, f"{A}/{'n' * 255}")
    os.mkfifo(f"{A}/d/fifo", 0o600)
    assert stat.S_ISFIFO(os.stat(f"{B}/d/fifo").st_mode)


@check("a directory of 3000 files, read while it changes")
def _():
    os.mkdir(f"{A}/many")
    for i in range(3000):
        os.close(os.open(f"{A}/many/file{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    seen = [entry.name for entry in os.scandir(f"{B}/many")]
    assert len(seen) == len(set(seen)) == 3000
    with os.scandir(f"{A}/many") as entries:
        for i, entry in enumerate(entries):
            os.unlink(entry.path)
    assert os.listdir(f"{B}/many") == []
    os.rmdir(f"{B}/many")


@check("attributes: mode, owner, times, set-group directories")
def _():
    write(f"{A}/attributes", b"")
    os.chmod(f"{A}/attributes", 0o4751)
    assert stat.S_IMODE(os.stat(f"{B}/attributes").st_mode) == 0o4751
    os.chown(f"{A}/attributes", 1000, 1001)
    status = os.stat(f"{B}/attributes")
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert not status.st_mode & stat.S_ISUID, "a change of owner takes the set-user bit"
    os.utime(f"{A}/attributes", ns=(1234567890123456789, -5))
    status = os.stat(f"{B}/attributes")
    assert (status.st_atime_ns, status.st_mtime_ns) == (1234567890123456789, -5)
    before = os.stat(f"{A}/attributes").st_ctime_ns
    with open(f"{A}/attributes", "ab") as file:
        file.write(b"more")
    assert os.stat(f"{B}/attributes").st_mtime_ns > before
    os.mkdir(f"{A}/group")
    os.chown(f"{A}/group", 0, 1001)
    os.chmod(f"{A}/group", 0o2775)
    os.mkdir(f"{B}/group/inner")
    status = os.stat(f"{A}/group/inner")
    assert status.st_gid == 1001 and status.st_mode & stat.S_ISGID


@check("permissions are the kernel's")
def _():
    write(f"{A}/secret", b"secret")
    os.chmod(f"{A}/secret", 0o600)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            fails(errno.EACCES, open, f"{B}/secret")
            fails(errno.EACCES, os.mkdir, f"{B}/nobodys")
            os._exit(0)
        except BaseException as e:
            print(e, file=sys.stderr)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


@check("an unlinked open file is a file still")
def _():
    fd = os.open(f"{B}/unlinked", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"still there")
    os.unlink(f"{A}/unlinked")
    assert os.pread(fd, 100, 0) == b"still there"
    assert os.fstat(fd).st_nlink == 0
    os.ftruncate(fd, 5)
    os.pwrite(fd, b"!", 5)
    assert os.pread(fd, 100, 0) == b"still!"
    os.close(fd)


@check("allocation: preallocate, punch, zero, holes")
def _():
    fd = os.open(f"{A}/space", os.O_CREAT | os.O_RDWR)
    fallocate(fd, 1, 0, 1 << 20)
    assert os.fstat(fd).st_size == 0 and os.fstat(fd).st_blocks >= 2048
    fallocate(fd, 0, 0, 1 << 20)
    assert os.fstat(fd).st_size == 1 << 20
    os.pwrite(fd, b"d" * (1 << 20), 0)
    fallocate(fd, 3, 65536, 131072)
    assert os.pread(fd, 131072, 65536) == bytes(131072)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 65536
    assert os.lseek(fd, 65536, os.SEEK_DATA) == 65536 + 131072
    fallocate(fd, 16, (1 << 20) - 100, 200)
    assert os.fstat(fd).st_size == (1 << 20) + 100
    assert os.pread(fd, 200, (1 << 20) - 100) == bytes(200)
    fails(errno.EOPNOTSUPP, fallocate, fd, 8, 0, 4096)
    os.ftruncate(fd, 1 << 40)
    assert os.lseek(fd, 2 << 20, os.SEEK_HOLE) == 2 << 20
    fails(errno.ENXIO, os.lseek, fd, 2 << 20, os.SEEK_DATA)
    fails(errno.ENXIO, os.lseek, fd, 1 << 40, os.SEEK_HOLE)
    assert os.fstat(fd).st_blocks < 4096
    os.close(fd)
    os.unlink(f"{A}/space")


@check("copy_file_range, append, truncate at open, O_DIRECT, locks")
def _():
    write(f"{A}/source", os.urandom(100000))
    source, target = os.open(f"{A}/source", os.O_RDONLY), os.open(f"{A}/target", os.O_CREAT | os.O_RDWR)
    assert os.copy_file_range(source, target, 100000) == 100000
    assert read(f"{B}/target") == read(f"{B}/source")
    os.close(source)
    os.close(target)
    for _ in range(10):
        with open(f"{A}/append", "ab") as file:
            file.write(b"0123456789")
    assert read(f"{B}/append") == b"0123456789" * 10
    with open(f"{A}/append", "wb") as file:
        assert os.fstat(file.fileno()).st_size == 0
    fd = os.open(f"{B}/direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 2 << 20)
    buffer[:] = os.urandom(2 << 20)
    assert os.write(fd, buffer) == 2 << 20
    os.fsync(fd)
    os.close(fd)
    assert read(f"{A}/direct") == bytes(buffer)
    with open(f"{A}/lock", "w") as one, open(f"{A}/lock", "w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fails(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)


@check("shared mappings")
def _():
    write(f"{A}/mapped", bytes(16384))
    with open(f"{A}/mapped", "r+b") as file:
        with mmap.mmap(file.fileno(), 16384) as mapping:
            mapping[5000:5005] = b"hello"
            mapping.flush()
    assert read(f"{B}/mapped")[5000:5005] == b"hello"


@check("random operations against a model (one node after the other)")
def _():
    rng = random.Random(7)
    model = bytearray()
    fds = [os.open(f"{mount}/fsx", os.O_CREAT | os.O_RDWR) for mount in MOUNTS]
    for step in range(1500):
        fd = rng.choice(fds)
        offset, length = rng.randrange(300000), rng.randrange(1, rng.choice((100, 5000, 70000)))
        action = rng.randrange(7)
        if action < 3:
            data = rng.randbytes(length)
            assert os.pwrite(fd, data, offset) == length
            if len(model) < offset + length:
                model.extend(bytes(offset + length - len(model)))
            model[offset : offset + length] = data
        elif action < 5:
            assert os.pread(fd, length, offset) == model[offset : offset + length], f"step {step}"
        elif action == 5:
            os.ftruncate(fd, offset)
            if len(model) < offset:
                model.extend(bytes(offset - len(model)))
            del model[offset:]
        else:
            fallocate(fd, 3, offset, length)
            end = min(len(model), offset + length)
            if end > offset:
                model[offset:end] = bytes(end - offset)
        if step % 50 == 0:
            assert os.fstat(rng.choice(fds)).st_size == len(model), f"step {step}"
    for fd in fds:
        os.close(fd)
    assert read(f"{B}/fsx") == model


@check("SQLite, with a rollback journal and with a write-ahead log")
def _():
    for mode in ("delete", "wal"):
        database = sqlite3.connect(f"{A}/{mode}.db")
        assert database.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
        database.execute("create table t(i integer primary key, v text)")
        for batch in range(10):
            with database:
                database.executemany("insert into t(v) values(?)", [(str(i) * 50,) for i in range(200)])
        database.close()
        database = sqlite3.connect(f"{B}/{mode}.db")
        assert database.execute("select count(*) from t").fetchone()[0] == 2000
        assert database.execute("pragma integrity_check").fetchone()[0] == "ok"
        database.close()


print("ok")
