#!/bin/bash
# guest_boot: real guests of both generations under struct hv, without a cluster: disks from qemu-storage-daemon, the lease from
# hv_driver. Checks that each boots from its disk, pauses without a lease, goes on or dies by what is current when a daemon comes
# back, loses nothing that it acknowledged, and survives a restart of its disk's server.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${S2D_BUILD:-build}
driver=$build/hv/hv_driver
keeper=$PWD/$build/bin/s2d-keeper
dir=$(mktemp -d /var/tmp/s2d-guest-XXXXXX)
server_pid= driver_pid=

clean_up() {
    local record pid
    [[ -z $driver_pid ]] || kill -9 "$driver_pid" 2>/dev/null || true
    for record in "$dir"/vms/*/keeper; do
        [[ -e $record ]] || continue
        pid=$(awk '{print $4}' "$record")
        # The keeper takes its QEMU along. The pid may be another's by now.
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) != s2d-keeper ]] || kill "$pid"
    done
    [[ -z $server_pid ]] || kill "$server_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$dir" || { sleep 1; rm -rf "$dir"; } # a QEMU may have been writing its log
}
trap clean_up EXIT

say() {
    printf '%3d s  %s\n' "$SECONDS" "$*"
}

fail() {
    echo "FAILED: $*"
    for log in "$dir"/vms/*/console.log "$dir"/vms/*/qemu.log "$dir"/driver.log; do
        echo "--- $log"
        tail -n 8 "$log" 2>/dev/null || true
    done
    exit 1
}

wait_for() { # SECONDS WHAT COMMAND…
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < limit)) || fail "$what"
        sleep 0.05
    done
}

# ---- the parts ----

start_server() {
    rm -f "$dir/nbd.sock"
    qemu-storage-daemon \
        --blockdev driver=file,node-name=f1,filename="$dir/one.img" --blockdev driver=raw,node-name=d1,file=f1 \
        --blockdev driver=file,node-name=f2,filename="$dir/two.img" --blockdev driver=raw,node-name=d2,file=f2 \
        --nbd-server addr.type=unix,addr.path="$dir/nbd.sock",max-connections=16 \
        --export type=nbd,id=e1,node-name=d1,name=vol/one,writable=on \
        --export type=nbd,id=e2,node-name=d2,name=vol/two,writable=on &
    server_pid=$!
    wait_for 10 "the disks' server does not start" test -S "$dir/nbd.sock"
}

stop_server() {
    kill -9 "$server_pid"
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

start_driver() { # CURRENT
    rm -f "$dir/commands"
    mkfifo "$dir/commands"
    "$driver" "$dir" "$dir/nbd.sock" "$keeper" "$1" <"$dir/commands" >>"$dir/driver.log" 2>&1 &
    driver_pid=$!
    exec 8>"$dir/commands"
}

answers() {
    grep -c -E '^(ok|failed)' "$dir/driver.log" || true
}

ask() { # COMMAND…: prints the answer
    local before
    before=$(answers)
    echo "$*" >&8
    wait_for 60 "no answer to '$*'" eval "(( \$(answers) > $before ))"
    grep -E '^(ok|failed)' "$dir/driver.log" | tail -n 1
}

expect() { # ANSWER COMMAND…
    local wanted=$1 got
    shift
    got=$(ask "$@")
    [[ $got == $wanted ]] || fail "'$*' was answered '$got', not '$wanted'"
}

ended() { # TEXT: such an end was reported
    grep -q "^ended $1" "$dir/driver.log"
}

log_of() {
    echo "$dir/vms/$1/console.log"
}

boots() { # NAME: how often the guest came up
    grep -a -c '^GUEST up' "$(log_of "$1")" 2>/dev/null || true
}

last_count() { # NAME: the newest count that the guest acknowledged
    { grep -a -o '^TICK [0-9]*' "$(log_of "$1")" || true; } | tail -n 1 | tr -dc 0-9
}

wait_up() { # NAME TIMES
    wait_for 300 "VM $1 did not come up" eval "[[ \$(boots $1) == $2 ]]"
}

ticks_on() { # NAME: it writes
    local before
    before=$(last_count "$1")
    wait_for 20 "VM $1 does not tick" eval "(( \$(last_count $1) > ${before:-0} + 2 ))"
}

process_state() { # PID: its letter; "gone" for a zombie too: its memory and files are
    local state
    state=$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null) || state=Z
    [[ $state != Z ]] && echo "$state" || echo gone
}

qemu_of() { # ID
    ask state "$1" | sed 's/.*qemu=\([0-9]*\).*/\1/'
}

no_errors() { # NAME
    ! grep -a -q '^ERROR' "$(log_of "$1")" || fail "the guest reports: $(grep -a -m 1 '^ERROR' "$(log_of "$1")")"
}

console() { # NAME COMMAND: the guest's answer
    python3 - "$dir/vms/$1/console.sock" "$2" <<'EOF'
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(30)
connection.connect(sys.argv[1])
connection.sendall(sys.argv[2].encode() + b"\n")
for line in connection.makefile("rb"):
    if line.startswith((b"OK", b"ERROR")):
        print(line.decode().strip())
        break
EOF
}

# ---- the story ----

image=$(tools/guest-image)
cp --sparse=always "$image" "$dir/one.img"
cp --sparse=always "$image" "$dir/two.img"
start_server
start_driver ""
wait_for 20 "the driver does not start" grep -q '^ok recover' "$dir/driver.log"

expect "ok start" start 1 1 one 1 192 vol/one
expect "ok start" start 2 1 two 2 192 vol/two
expect "failed start*runs here*" start 1 2 one 1 192 vol/one
expect "failed start*QEMU failed*none*" start 3 1 three 1 64 vol/none
expect "failed start*no bridge*" start 3 1 three 1 64 vol/one nobridge
expect "ok state off*" state 3
wait_up one 1
wait_up two 1
grep -a -q 'GUEST up boot=1 count=0 .*firmware=bios' "$(log_of one)" || fail "generation 1 did not boot from BIOS"
grep -a -q 'GUEST up boot=1 count=0 .*firmware=uefi' "$(log_of two)" || fail "generation 2 did not boot from UEFI"
ticks_on one
ticks_on two
[[ $(console one "write 20") == "OK write "* ]] || fail "the guest does not take commands"
[[ $(console one verify) == "OK verify "* ]] || fail "the guest cannot verify"
say "both generations boot and write"

# The disks' server dies and comes back: a pause, no error.
stop_server
start_server
ticks_on one
ticks_on two
no_errors one
no_errors two
say "a restart of the disks' server was a pause"

# No lease: no VM runs. With it again: those that are current.
expect "ok current" current 1:1,2:1
qemu1=$(qemu_of 1)
expect "ok lease" lease off
wait_for 5 "VM one runs without a lease" eval "[[ \$(process_state $qemu1) == T ]]"
expect "ok state paused*" state 1
count=$(last_count one)
sleep 0.5
(($(last_count one) == count)) || fail "VM one ticks without a lease"
expect "ok lease" lease on
ticks_on one
ticks_on two
say "without a lease both paused, with it they went on"

# The daemon is killed; VM two is started elsewhere meanwhile, as far as the next daemon knows.
kill -9 "$driver_pid"
wait "$driver_pid" 2>/dev/null || true
qemu2=$(pgrep -f "^qemu-system-x86_64.* -name two .*$dir" || true)
wait_for 5 "VM one runs without a daemon" eval "[[ \$(process_state $qemu1) == T ]]"
start_driver 1:1
wait_for 20 "VM two was not killed" ended "2 1 killed"
ticks_on one
expect "ok state running*" state 1
expect "ok state off*" state 2
[[ $(qemu_of 1) == "$qemu1" ]] || fail "VM one is another process now"
[[ -z $qemu2 || $(process_state "$qemu2") == gone ]] || fail "VM two's QEMU still lives"
say "a new daemon took up the current VM and killed the other"

# QEMU dies, and the keeper; the next incarnation has all that was acknowledged.
count=$(last_count one)
kill -9 "$qemu1"
wait_for 10 "the death of QEMU was not reported" ended "1 1 failed: QEMU was killed by signal 9"
count2=$(last_count two)
expect "ok start" start 1 2 one 1 192 vol/one
expect "ok start" start 2 2 two 2 192 vol/two
wait_up one 2
wait_up two 2
booted=$(grep -a '^GUEST up boot=2' "$(log_of one)" | sed 's/.*count=\([0-9]*\).*/\1/')
((booted >= count)) || fail "VM one acknowledged $count and came up with $booted"
booted=$(grep -a '^GUEST up boot=2' "$(log_of two)" | sed 's/.*count=\([0-9]*\).*/\1/')
((booted >= count2)) || fail "VM two acknowledged $count2 and came up with $booted"
ticks_on one
say "after a kill each came up with all that it had acknowledged"

qemu1=$(qemu_of 1)
kill -9 "$(ask state 1 | sed 's/.*keeper=\([0-9]*\).*/\1/')"
wait_for 10 "the death of the keeper was not reported" ended "1 2 failed"
[[ $(process_state "$qemu1") == gone ]] || fail "QEMU outlived its keeper"
expect "ok shutdown" shutdown 2 60
ended "2 2 off" || fail "the guest's power-off was not reported as such"
grep -a -q 'GUEST power button' "$(log_of two)" || fail "the guest did not see the power button"
no_errors one
no_errors two
echo quit >&8
wait "$driver_pid" || fail "the driver ended with an error"
driver_pid=
say "QEMU died with its keeper; the power button works"
echo "guest_boot: all verified"
