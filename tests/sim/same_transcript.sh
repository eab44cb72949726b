#!/bin/bash
# same_transcript.sh CLUSTER_SIM: the same seed gives the same transcript, byte for byte, in two processes: with another
# environment, and with memory that is filled with other bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for seed in 3 110 11; do # the last one has VMs
    "$1" --seed $seed --seconds 3 --log >"$folder/first"
    env MALLOC_PERTURB_=173 OTHER="$(printf '%3000s')" "$1" --seed $seed --seconds 3 --log >"$folder/second"
    cmp "$folder/first" "$folder/second"
    echo "seed $seed: $(wc -l <"$folder/first") lines, twice the same"
done
