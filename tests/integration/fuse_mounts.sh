#!/bin/bash
# fuse_mounts.sh: one volume mounted on three nodes of one process: copies, git, SQLite, random operations; then the same
# copies while the owner moves and dies. S2D_BUILD: where the programs are.
# fast
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${S2D_BUILD:-build}")/csv-export
dir=$(mktemp -d /var/tmp/fuse_mounts.XXXXXX)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
    done
    for mount in "$dir"/node*/v; do
        umount -l "$mount" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap cleanup EXIT
step() { echo "== $*"; }
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$dir/cluster.log" >&2
    exit 1
}
start() {
    rm -f "$dir/cluster.log" # "ready" is of the one before
    "$build/csv_cluster" "$dir" >"$dir/cluster.log" 2>&1 &
    cluster=$!
    pids=("$cluster")
    for _ in $(seq 600); do grep -qs ready "$dir/cluster.log" && return || sleep 0.05; done
    fail "it does not get ready"
}

cp -r tests "$dir/tree"
start
v1=$dir/node1/v v2=$dir/node2/v v3=$dir/node3/v

python3 tests/integration/fuse_files.py "$v1" "$v2" "$v3" || fail "file operations"

step "a tree copied on one node is the same on another"
cp -r "$dir/tree" "$v1/copy"
diff -r "$dir/tree" "$v3/copy"
cp -a "$v2/copy" "$v2/again"
diff -r "$v1/copy" "$v1/again"
rm -r "$v3/again"
[[ ! -e $v1/again ]] || fail "it is still there"

step "git"
(
    cd "$v2"
    git init -q repository
    cd repository
    cp -r "$dir/tree" .
    git add .
    git -c user.name=t -c user.email=t@example.org commit -qm first
    cd "$v1/repository"
    git -c safe.directory='*' fsck --strict
    git -c safe.directory='*' status --porcelain | grep -q . && exit 1
    git -c safe.directory='*' clone -q "$v3/repository" "$v3/clone"
) || fail git

step "the owner moves and dies while files are copied and compared: no error, nothing lost"
(
    for i in $(seq 30); do
        sleep 0.15
        kill -USR$((i % 2 + 1)) "$cluster" || break
    done
) &
mover=$!
pids+=("$mover")
round=0
while kill -0 "$mover" 2>/dev/null; do
    round=$((round + 1))
    cp -r "$dir/tree" "$dir/node$((round % 3 + 1))/v/round$round"
    diff -r "$dir/tree" "$dir/node$(((round + 1) % 3 + 1))/v/round$round" || fail "round $round"
    ((round % 2)) || rm -r "$dir/node$(((round + 2) % 3 + 1))/v/round$round"
done
wait "$mover"
(($(grep -c owner "$dir/cluster.log") == 30)) || fail "the moves"
echo "rounds: $round"

step "who dies leaves a mount; the next start takes its place"
kill -KILL "$cluster"
wait "$cluster" 2>/dev/null || true
ls "$v1" >/dev/null 2>&1 && fail "a dead mount answers"
start
(($(grep -c "$dir/node1/v " /proc/mounts) == 1)) || fail "mounts pile up"
echo new >"$v1/file"
[[ $(cat "$v2/file") == new ]] || fail "the new mount"

step "the end: unmounted, everything let go of, the file system checks clean"
kill "$cluster"
wait "$cluster" || fail "it does not check clean, or something was left"
pids=()
grep -q "$dir" /proc/mounts && fail "a mount was left"
echo "ok"
