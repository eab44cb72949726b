#!/bin/bash
# install.sh: what `cmake --install` puts on a server is whole: programs that start, the helpers beside the daemon, a unit that
# names what was installed. S2D_BUILD: where the programs are.
# fast
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${S2D_BUILD:-build}")
root=$(mktemp -d /var/tmp/s2d-install.XXXXXX)
trap 'rm -rf "$root"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

DESTDIR=$root cmake --install "$build" >/dev/null
prefix=$(sed -n 's/^CMAKE_INSTALL_PREFIX:PATH=//p' "$build/CMakeCache.txt")
unit=$root/usr/lib/systemd/system/s2dd.service

for program in bin/s2d sbin/s2dd; do
    "$root$prefix/$program" --version >/dev/null || fail "$program does not start"
done
"$root$prefix/bin/s2d" fsck --help | grep -q 'nodes that are stopped' || fail "s2d fsck does not start"
for helper in s2d-keeper s2d-kvm-probe; do
    [[ -x $root$prefix/sbin/$helper ]] || fail "$helper is not beside s2dd"
done
read -r daemon _ config < <(sed -n 's/^ExecStart=//p' "$unit")
[[ -x $root$daemon ]] || fail "the unit starts $daemon, which is not installed"
[[ -f $root$config.example ]] || fail "the unit reads $config, and no example of it is installed"
sed "s|^dir = .*|dir = $root/node|; s|^listen = .*|listen = nonsense|" "$root$config.example" >"$root$config"
message=$("$root$daemon" --config "$root$config" 2>&1) && fail "an address that is none was taken"
[[ $message == *listen* ]] || fail "'$message' does not name the option that is wrong"
for page in s2d s2dd; do
    [[ -s $root$prefix/share/man/man1/$page.1 ]] || fail "no manual of $page"
done
