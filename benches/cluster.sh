#!/usr/bin/env bash
# Trains in RANKS network namespaces whose links have a given rate, as root on Linux with Open MPI 4, and prints
# medians of the steps' seconds.
#
#     benches/cluster.sh PROGRAM RANKS RATE [OPTIONS OF train ...]
#     benches/cluster.sh target/release/performer-ddpm 2 1gbit --preset fashion --steps 20
#
# RATE none leaves the ranks in one namespace, where they share memory.
set -euo pipefail
program=$(realpath "$1") ranks=$2 rate=$3
shift 3
work=$(mktemp -d)
net() { ip netns exec "rank$1" "${@:2}"; }
clear_up() {
    for ((r = 0; r < ranks; r++)); do
        ip link del "to$r" 2> /dev/null || true
        ip netns del "rank$r" 2> /dev/null || true
    done
    ip link del ranks 2> /dev/null || true
    rm -rf "$work"
}
trap clear_up EXIT
launch=(mpirun -n "$ranks" --allow-run-as-root --oversubscribe --bind-to none)
if [ "$rate" = none ]; then
    "${launch[@]}" "$program" train "$@" --threads 1 --out "$work/run" --quiet > /dev/null
else
    ip link add ranks type bridge && ip addr add 10.77.0.254/24 dev ranks && ip link set ranks up
    for ((r = 0; r < ranks; r++)); do
        ip netns add "rank$r"
        ip link add "to$r" type veth peer name eth0 netns "rank$r"
        ip link set "to$r" master ranks up
        net "$r" ip addr add "10.77.0.$((r + 1))/24" dev eth0
        net "$r" ip link set lo up
        net "$r" ip link set eth0 up
        # A rank's sending is limited here, its receiving at the bridge.
        net "$r" tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 100ms
        tc qdisc add dev "to$r" root tbf rate "$rate" burst 256kb latency 100ms
    done
    printf '#!/bin/sh\nexec ip netns exec "rank$OMPI_COMM_WORLD_RANK" "$@"\n' > "$work/inside"
    chmod +x "$work/inside"
    # What starts the ranks is reached from inside by the bridge.
    export PMIX_MCA_ptl_base_if_include=ranks PMIX_MCA_ptl_base_remote_connections=1
    "${launch[@]}" --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include eth0 \
        "$work/inside" "$program" train "$@" --threads 1 --out "$work/run" --quiet > /dev/null
fi
python3 - "$work/run/metrics.jsonl" "$ranks" "$rate" << 'END'
import json
import statistics
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
steps = [b["seconds"] - a["seconds"] for a, b in zip(lines, lines[1:])]
middle = lambda name: statistics.median(line.get(name) or 0.0 for line in lines[1:])
print(f"{' '.join(sys.argv[2:])}: {statistics.median(steps):.4f} s a step, "
      f"waiting {middle('waiting_s'):.4f}, communication {middle('communication_s'):.4f}")
END
