#!/bin/bash
# nbd_tools.sh: the NBD server before the tools that people use: nbdinfo, nbdcopy, qemu-img, qemu-io, fio; first on RAM
# alone, then on files of a volume whose owner moves and dies meanwhile. S2D_BUILD: where the programs are.
# fast
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${S2D_BUILD:-build}")/csv-export
dir=$(mktemp -d /var/tmp/nbd_tools.XXXXXX)
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
    exit 1
}
has() { grep -q -- "$2" <<<"$1" || fail "expected '$2' in: $1"; }

fio_verify() { # URI EXTRA…
    local uri=$1
    shift
    (cd "$dir" && fio --name=verify --ioengine=nbd --uri="$uri" --size=64M --verify=crc32c --verify_fatal=1 \
        --verify_state_save=0 --iodepth=32 "$@") >"$dir/fio.log" 2>&1 || {
        cat "$dir/fio.log"
        fail "fio $*"
    }
}

tools_on() { # URI: an export of 256 MiB that holds zeros
    local uri=$1 info
    step "what it is"
    info=$(nbdinfo "$uri")
    has "$info" 'protocol: newstyle-fixed without TLS, using structured packets'
    has "$info" 'export-size: 268435456'
    for flag in can_df can_fast_zero can_flush can_fua can_multi_conn can_trim can_zero can_cache; do
        has "$info" "$flag: true"
    done
    has "$info" 'is_read_only: false'
    has "$info" 'block_size_minimum: 512'
    has "$info" 'block_size_preferred: 4096'
    has "$info" 'block_size_maximum: 33554432'
    has "$info" 'base:allocation'
    has "$(qemu-img info "$uri")" 'virtual size: 256 MiB'

    step "nbdcopy there and back, over several connections"
    head -c 100M /dev/urandom >"$dir/random"
    truncate -s 256M "$dir/random"
    nbdcopy --connections=4 "$dir/random" "$uri"
    nbdcopy --connections=4 "$uri" "$dir/back"
    cmp "$dir/random" "$dir/back"
    qemu-img compare -f raw -F raw "$dir/random" "$uri" >/dev/null

    step "nbdkit as a client, that serves others: written and read through it"
    nbdkit -U - --filter=cow nbd uri="$uri" --run "qemu-img compare -f raw -F raw '$dir/random' \"\$uri\"" >/dev/null
    nbdkit -U - nbd uri="$uri" shared=true --run "nbdcopy --connections=4 '$dir/random' \"\$uri\" && nbdcopy \"\$uri\" '$dir/back'"
    cmp "$dir/random" "$dir/back"

    step "holes are holes"
    local map
    map=$(nbdinfo --map --totals "$uri")
    has "$map" 'hole,zero'
    nbdcopy --destination-is-zero "$dir/random" "$uri"

    step "qemu-io: patterns of any 512 bytes, zeros, discards"
    qemu-io -f raw -c 'write -P 0x11 0 1M' -c 'write -P 0x22 512 512' -c 'write -P 0x33 3584 1024' \
        -c 'read -P 0x11 0 512' -c 'read -P 0x22 512 512' -c 'read -P 0x33 3584 1024' -c 'read -P 0x11 4608 512' \
        -c 'write -z 8192 12288' -c 'read -P 0 8192 12288' -c 'write -zu 65536 65536' -c 'read -P 0 65536 65536' \
        -c 'discard 131072 65536' -c 'read -P 0 131072 65536' -c 'read -P 0x11 196608 4096' \
        -c 'write -f -P 0x44 1M 32M' -c 'read -P 0x44 1M 32M' -c 'flush' \
        -c 'aio_write -P 0x55 40M 3M' -c 'aio_write -P 0x66 43M 512' -c 'aio_flush' -c 'read -P 0x55 40M 3M' \
        "$uri" >"$dir/qemu-io.log" 2>&1 || {
        cat "$dir/qemu-io.log"
        fail qemu-io
    }
    grep -qi 'fail\|error' "$dir/qemu-io.log" && {
        cat "$dir/qemu-io.log"
        fail "qemu-io said so"
    }

    step "qemu-img bench and fio with verification"
    qemu-img bench -f raw -c 20000 -d 32 -s 4096 -w "$uri" >/dev/null
    fio_verify "$uri" --rw=randwrite --bs=4k
    fio_verify "$uri" --rw=randwrite --bsrange=512-256k --blockalign=512
    fio_verify "$uri" --rw=write --bs=2M --iodepth=4
}

step "RAM"
"$build/nbd_ram_server" "unix:$dir/ram.sock" 256 >"$dir/ram.log" &
pids+=($!)
for _ in $(seq 100); do [[ -S $dir/ram.sock ]] && break || sleep 0.05; done
tools_on "nbd+unix:///ram/disk?socket=$dir/ram.sock"
has "$(nbdinfo --list "nbd+unix:///?socket=$dir/ram.sock")" 'export="ram/read-only"'
has "$(nbdinfo "nbd+unix:///ram/read-only?socket=$dir/ram.sock")" 'is_read_only: true'
has "$(nbdinfo "nbd+unix:///ram/odd-size?socket=$dir/ram.sock")" 'block_size_minimum: 1$'
nbdcopy "nbd+unix:///ram/odd-size?socket=$dir/ram.sock" "$dir/odd"
[[ $(stat -c %s "$dir/odd") == 1000001 ]] || fail "odd size"
nbdinfo "nbd+unix:///ram/none?socket=$dir/ram.sock" >/dev/null 2>&1 && fail "an export that is none"
kill "${pids[0]}"
wait "${pids[0]}" || fail "the server's status"
pids=()
cat "$dir/ram.log"

step "files of a volume"
"$build/csv_cluster" "$dir" >"$dir/cluster.log" 2>&1 &
cluster=$!
pids+=("$cluster")
for _ in $(seq 200); do grep -q ready "$dir/cluster.log" && break || sleep 0.05; done
mkdir "$dir/node1/v/vms"
truncate -s 256M "$dir/node1/v/vms/disk one"
truncate -s 256M "$dir/node1/v/vms/other"
uri() { echo "nbd+unix:///v/vms/$2?socket=$dir/node$1/nbd.sock"; }
has "$(nbdinfo --list "nbd+unix:///?socket=$dir/node3/nbd.sock")" 'export="v/vms/disk one"'
step "on the owner"
tools_on "$(uri 1 other)"
step "redirected"
tools_on "$(uri 2 'disk%20one')"
step "what one node wrote, another reads"
nbdcopy "$dir/random" "$(uri 2 other)"
nbdcopy "$(uri 3 other)" "$dir/back"
cmp "$dir/random" "$dir/back"
cmp "$dir/random" "$dir/node1/v/vms/other"

step "a disk with an incarnation: others may only read"
qemu-io -f raw -c 'sleep 3000' "$(uri 2 other@5)" >/dev/null 2>&1 &
vm=$!
sleep 1
has "$(nbdinfo "$(uri 1 other)")" 'is_read_only: true'
qemu-io -f raw -c 'write 0 4096' "$(uri 3 other@4)" >/dev/null 2>&1 && fail "an old incarnation"
qemu-io -f raw -c 'write 0 4096' "$(uri 3 other@6)" >/dev/null || fail "the next incarnation"
wait "$vm" || true
has "$(nbdinfo "$(uri 1 other)")" 'is_read_only: false'

step "the owner moves and dies under fio: no error"
(
    for i in $(seq 40); do
        sleep 0.2
        kill -USR$((i % 2 + 1)) "$cluster" || break
    done
) &
mover=$!
pids+=("$mover")
for node in 1 2 3; do
    fio_verify "$(uri $node other)" --rw=randwrite --bs=4k --runtime=3 --time_based
    grep -h -m1 'write: IOPS' "$dir/fio.log"
done
wait "$mover"
moves=$(grep -c owner "$dir/cluster.log")
((moves > 30)) || fail "only $moves moves"

kill "$cluster"
wait "$cluster" || {
    tail -n 20 "$dir/cluster.log"
    fail "the volume does not check clean, or something was left"
}
pids=()
grep -q "$dir" /proc/mounts && fail "a mount was left"
echo "ok"
