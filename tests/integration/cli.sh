#!/bin/bash
# cli.sh: s2d against three real daemons on this machine: every noun, what is refused and with which exit status, data in and
# out, a node that dies, no quorum. S2D_BUILD: where the programs are.
# fast
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(realpath "${S2D_BUILD:-build}")/bin
dir=$(mktemp -d /var/tmp/s2d-cli.XXXXXX)
port=$((20000 + RANDOM % 20000))
declare -A pids

clean_up() {
    for pid in "${pids[@]}"; do
        kill -9 "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap clean_up EXIT

step() { printf '%3d s  %s\n' "$SECONDS" "$*"; }
fail() {
    exec >&2 # not into what a caller captures
    echo "FAILED: $*"
    for log in "$dir"/*.log; do
        echo "--- $log"
        tail -n 15 "$log"
    done
    exit 1
}

start() { # NODE
    mkdir -p "$dir/node$1"
    "$bin/s2dd" --dir "$dir/node$1" --name "node$1" --listen "127.0.0.1:$((port + $1))" --fuse no \
        --cold-start-grace 2000 >>"$dir/node$1.log" 2>&1 &
    pids[$1]=$!
    for _ in $(seq 100); do
        [[ -S $dir/node$1/api.sock ]] && return
        sleep 0.1
    done
    fail "node$1 does not start"
}

s2d() { # NODE ARGUMENT…: exit status 0 is wanted; prints what it printed
    local node=$1
    shift
    timeout 120 "$bin/s2d" --node "$dir/node$node" "$@" 2>"$dir/message" </dev/null ||
        fail "s2d $*: exit $?: $(<"$dir/message")"
}

refused() { # STATUS PATTERN NODE ARGUMENT…: that exit status, and one line that matches
    local wanted=$1 pattern=$2 node=$3 status=0
    shift 3
    timeout 120 "$bin/s2d" --node "$dir/node$node" "$@" >/dev/null 2>"$dir/message" </dev/null || status=$?
    [[ $status == "$wanted" ]] || fail "s2d $*: exit $status instead of $wanted: $(<"$dir/message")"
    [[ $(wc -l <"$dir/message") == 1 ]] || fail "s2d $*: not one line: $(<"$dir/message")"
    grep -q -- "$pattern" "$dir/message" || fail "s2d $*: '$(<"$dir/message")' does not say '$pattern'"
}

post() { # NODE TARGET JSON: what a program that speaks to the API is answered
    python3 -c '
import socket, sys
path, target, body = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as api:
    api.connect(path)
    api.sendall(f"POST {target} HTTP/1.1\r\nHost: s2d\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    print(b"".join(iter(lambda: api.recv(65536), b"")).decode())' "$dir/node$1/api.sock" "$2" "$3"
}

field() { # JSON-FIELD NODE ARGUMENT…
    local name=$1 node=$2
    shift 2
    s2d "$node" --json "$@" | python3 -c "import json, sys; print(json.load(sys.stdin)$name)"
}

until_is() { # SECONDS VALUE JSON-FIELD NODE ARGUMENT…
    local end=$((SECONDS + $1)) wanted=$2 seen=
    shift 2
    while ((SECONDS < end)); do
        seen=$(field "$@" 2>&1) || true
        [[ $seen == "$wanted" ]] && return
        sleep 0.3
    done
    fail "$* is '$seen', not '$wanted'"
}

step "usage"
refused 2 "--help" 1
refused 2 "NAME is missing" 1 volume create
refused 2 "no size" 1 volume create v --size much
refused 1 "this version does not" 1 pool optimize
refused 3 "no daemon answers" 1 node list
"$bin/s2d" volume create --help | grep -q -- "--size SIZE" || fail "no help"

step "a cluster of three"
start 1
refused 1 "belongs to no cluster" 1 node list
s2d 1 cluster create dev >/dev/null
refused 1 "already" 1 cluster create other
for i in 2 3; do
    start "$i"
    refused 1 "token" "$i" cluster join "127.0.0.1:$((port + 1))" --token nonsense
    s2d "$i" cluster join "127.0.0.1:$((port + 1))" --token "$(s2d 1 cluster token)" >/dev/null
done
[[ $(field "[2]['name']" 2 node list) == node3 ]] || fail "node3 is not listed"
until_is 20 3 "['votes']" 1 cluster quorum

step "pool and disks"
refused 1 "pool create" 1 disk claim /dev/null
refused 1 "to 256 MiB" 3 pool create --extent 512M
s2d 3 pool create --extent 16M >/dev/null
for i in 1 2 3; do
    truncate -s 1G "$dir/ssd$i"
    s2d 1 disk claim "$dir/ssd$i" --on "node$i" >/dev/null # of another node, by any node
done
echo "somebody's data" >"$dir/foreign"
truncate -s 1G "$dir/foreign"
printf 'hello' | dd of="$dir/foreign" bs=1 seek=4096 conv=notrunc status=none
refused 1 "foreign holds" 1 disk claim "$dir/foreign"
[[ $(head -c 15 "$dir/foreign") == "somebody's data" ]] || fail "a disk with data was written to"
s2d 1 disk list | grep -q foreign && fail "a disk that was refused is listed"
disk=$(field "[0]['id']" 2 disk list)
[[ $(field "['node']" 3 disk show "$disk") == node1 ]] || fail "disk show"
((const = $(field "['log_bytes']" 3 disk show "$disk"), const > 0)) || fail "log_bytes"
[[ $(field "['health']" 1 cluster health) == Healthy ]] || fail "not healthy: $(s2d 1 cluster health)"

step "a volume and files"
refused 1 "cannot name a volume" 1 volume create "a b" --size 64M
refused 1 "parity" 1 volume create v --size 64M --resiliency parity2
refused 1 "mirror2, mirror3, parity2" 1 volume create v --size 64M --resiliency triple
s2d 2 volume create v --size 256M >/dev/null
refused 1 "already" 1 volume create v --size 64M
[[ $(field "['owner']" 3 volume show v) == node2 ]] || fail "owner"
dd if=/dev/urandom of="$dir/image" bs=1M count=3 status=none
truncate -s 24M "$dir/image"
printf 'the end' >>"$dir/image"
s2d 1 file import "$dir/image" v/a/b/image >/dev/null
s2d 3 file export v/a/b/image "$dir/copy" >/dev/null
cmp "$dir/image" "$dir/copy" || fail "what came out is not what went in"
(($(du -k "$dir/copy" | cut -f1) < 8192)) || fail "holes were filled"
refused 1 "there already" 1 file import "$dir/image" v/a/b/image
refused 1 "say --yes" 1 file rm v/a/b/image
refused 1 "not empty" 1 file rm v/a --yes
s2d 1 file rm v/a/b/image --yes >/dev/null
refused 1 "no such file" 1 file export v/a/b/image "$dir/none"
[[ ! -e $dir/none ]] || fail "a failed export leaves a file"
s2d 1 file create v/disk --size 64M --fixed >/dev/null
[[ $(s2d 2 file ls v) == *disk* ]] || fail "file ls"
refused 1 "full" 1 file create v/huge --size 1T --fixed
[[ $(s2d 2 file ls v) != *huge* ]] || fail "a failed create leaves a file"
refused 1 "shrink" 1 volume resize v 128M
s2d 1 volume resize v 320M >/dev/null
[[ $(field "['problems']" 3 volume check v) == 0 ]] || fail "volume check"

step "clones and snapshots"
dd if=/dev/urandom of="$dir/small" bs=1M count=2 status=none
s2d 1 file import "$dir/small" v/c/from >/dev/null
s2d 3 file clone v/c/from v/d/to >/dev/null
refused 1 "two volumes" 1 file clone v/c/from w/to
refused 1 "no such file" 1 file clone v/c/none v/to
refused 1 "already" 1 file clone v/c/from v/d/to
s2d 1 volume snapshot create v monday >/dev/null
s2d 2 volume snapshot create v file --path c/from >/dev/null
refused 1 "of that name" 1 volume snapshot create v monday
[[ $(field ".__len__()" 3 volume snapshot list v) == 2 ]] || fail "snapshot list"
s2d 1 file rm v/c/from --yes >/dev/null
s2d 1 file import "$dir/image" v/d/new >/dev/null
s2d 2 file export v/d/to "$dir/copy2" >/dev/null
cmp "$dir/small" "$dir/copy2" || fail "a clone is not its original"
refused 1 "is gone" 1 volume snapshot restore v file --yes
refused 1 "say --yes" 1 volume snapshot restore v monday
s2d 3 volume snapshot restore v monday --yes >/dev/null
s2d 3 file export v/c/from "$dir/copy3" >/dev/null
cmp "$dir/small" "$dir/copy3" || fail "what was restored is not what was kept"
[[ $(s2d 2 file ls v/d) != *new* ]] || fail "restore leaves what is newer"
s2d 1 volume snapshot delete v monday --yes >/dev/null
s2d 1 volume snapshot delete v file --yes >/dev/null
[[ $(field ".__len__()" 3 volume snapshot list v) == 0 ]] || fail "snapshot delete"
refused 1 "no such snapshot" 1 volume snapshot delete v monday --yes
[[ $(field "['problems']" 3 volume check v) == 0 ]] || fail "volume check after clones"

step "moving, draining"
s2d 1 volume move v --to node3 >/dev/null
[[ $(field "['owner']" 1 volume show v) == node3 ]] || fail "move"
s2d 1 node drain node3 >/dev/null
[[ $(field "['state']" 1 node show node3) == paused ]] || fail "drain"
[[ $(field "['owner']" 1 volume show v) != node3 ]] || fail "a drained node owns a volume"
s2d 1 node resume node3 >/dev/null

step "VMs as records"
refused 1 "no such file" 1 vm create web --memory 64M --disk v/nothing
s2d 1 vm create web --memory 64M --disk v/disk --generation 1 >/dev/null
refused 1 "disk of VM web" 1 vm create other --memory 64M --disk v/disk
refused 1 "does not run" 1 vm shutdown web
s2d 1 vm create web2 --clone-of web --vcpus 2 >/dev/null
[[ $(field "['disks'][0]" 2 vm show web2) == v/web2-disk ]] || fail "the clone's disk"
refused 1 "VM web2 already" 1 vm create web2 --clone-of web
refused 1 "no VM" 1 vm create web3 --clone-of nobody
answer=$(post 1 /v1/vms '{"name": "web3", "clone_of": "web", "disks": ["v/disk"]}')
[[ $answer == *"no field 'disks'"* ]] || fail "a clone with other disks: $answer"
s2d 1 vm delete web2 --yes >/dev/null
refused 1 "VM web" 1 volume delete v --yes
s2d 1 vm delete web --yes >/dev/null

step "metrics, events, jobs, perf"
[[ $(field "[0]['code']" 3 cluster events) == cluster.created ]] || fail "events"
(($(field ".__len__()" 3 cluster events --last 2) == 2)) || fail "events --last"
[[ $(field "['nodes'][2]['name']" 1 perf --seconds 0.1) == node3 ]] || fail "perf"
[[ $(field "['disks'][1]['name']" 1 perf --seconds 0.1) == node2:ssd2 ]] || fail "perf by disk"
[[ $(field "['caches'][0]['name']" 1 perf --seconds 0.1) == node1 ]] || fail "perf, caches of a node"
[[ $(field "['caches'][1]['name']" 1 perf --seconds 0.1) == node1:ssd1 ]] || fail "perf, caches of a disk"
(($(field "['caches'][0]['dirty_bytes']" 1 perf --seconds 0.1) > 0)) || fail "perf: something was written, and nothing is dirty"
(($(field "['caches'][1]['read_cache_bytes']" 1 perf --seconds 0.1) == 0)) || fail "perf: flash has a read cache"
python3 -c 'import sys; sys.exit(not 0 < float(sys.argv[1]) < 100)' \
    "$(field "['caches'][0]['log_fill_percent']" 1 perf --seconds 0.1)" || fail "perf: log fill"
python3 -c 'import sys; sys.exit(not 0 < float(sys.argv[1]) < 3600)' \
    "$(field "['caches'][0]['oldest_dirty_s']" 1 perf --seconds 0.1)" || fail "perf: age of the oldest dirty block"
s2d 1 job list >/dev/null

step "a node dies"
kill -9 "${pids[3]}"
wait "${pids[3]}" 2>/dev/null || true
until_is 20 down "['state']" 1 node show node3
until_is 20 Degraded "['operational']" 1 volume show v
s2d 1 cluster health | grep -q "Node down" || fail "health says nothing of node3"
refused 1 "retire them first" 1 node evict node2 --yes

step "no quorum"
kill -9 "${pids[2]}"
wait "${pids[2]}" 2>/dev/null || true
for _ in $(seq 50); do # until the leader has noticed
    "$bin/s2d" --node "$dir/node1" cluster health >/dev/null 2>&1 || break
    sleep 0.2
done
refused 3 "no quorum" 1 cluster health
refused 3 "" 1 volume create w --size 64M # "no quorum", or "no answer in time"
start 2
start 3
until_is 60 Healthy "['health']" 1 cluster health

step "the end"
s2d 2 volume delete v --yes >/dev/null
# Nobody knew whether it was done: now it is known.
[[ $(s2d 2 volume list) != *w\ * ]] || s2d 2 volume delete w --yes >/dev/null
refused 1 "no volume" 1 volume show v
until_is 30 0 "['used_bytes']" 1 pool status

step "a retired disk is claimed again"
for _ in 1 2; do # what an empty disk says at once: it is retired, and free
    s2d 2 disk retire node1:ssd1 --yes >/dev/null
    s2d 1 disk claim "$dir/ssd1" >/dev/null
    until_is 10 ok "['state']" 2 disk show node1:ssd1
done
kill -9 "${pids[3]}" # retired while nobody could give it back
wait "${pids[3]}" 2>/dev/null || true
until_is 20 down "['state']" 1 node show node3
s2d 1 disk retire node3:ssd3 --yes >/dev/null
until_is 10 retired "['state']" 1 disk show node3:ssd3
start 3
until_is 20 up "['state']" 1 node show node3
s2d 3 disk claim "$dir/ssd3" >/dev/null
until_is 10 ok "['state']" 1 disk show node3:ssd3
echo "all as it should be"
