#!/bin/sh
# Proportional memory of one server at a time while no Python of ours runs: a second one would share pages and make
# each look smaller. So this is sh, and the benchmark that calls it replaces its own process by it.
# Usage: pss.sh RESULTS ROUNDS SECONDS NAME=SOCKET=COMMAND...   (COMMAND is split at spaces)
# Appends "NAME<tab>PSS<tab>PRIVATE<tab>OTHERS" to RESULTS: kB of Pss and of Private_Dirty, and how many processes
# elsewhere have gRPC loaded too.
set -eu
results=$1 rounds=$2 settle=$3
shift 3

measure() {
    name=${1%%=*} rest=${1#*=}
    socket=${rest%%=*} command=${rest#*=}
    rm -f "$socket"
    # shellcheck disable=SC2086  # the command is meant to be split
    $command >"$results.log" 2>&1 &
    server=$!
    waited=0
    until [ -S "$socket" ]; do
        waited=$((waited + 1))
        if [ "$waited" -gt 300 ] || ! kill -0 "$server" 2>/dev/null; then
            echo "pss.sh: $name did not come up:" >&2
            tail -n 5 "$results.log" >&2
            kill "$server" 2>/dev/null || true
            return 1
        fi
        sleep 0.1
    done
    sleep "$settle"
    others=$(grep -l cygrpc /proc/[0-9]*/maps 2>/dev/null | grep -vc "^/proc/$server/" || true)
    pss=$(awk '/^Pss:/ { print $2 }' "/proc/$server/smaps_rollup")
    private=$(awk '/^Private_Dirty:/ { print $2 }' "/proc/$server/smaps_rollup")
    printf '%s\t%s\t%s\t%s\n' "$name" "$pss" "$private" "$others" >>"$results"
    kill "$server"
    wait "$server" 2>/dev/null || true
}

round=0
while [ "$round" -lt "$rounds" ]; do
    for entry in "$@"; do measure "$entry"; done
    round=$((round + 1))
done
