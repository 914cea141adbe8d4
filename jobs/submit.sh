#!/bin/bash
# The main job as a graph of Slurm jobs: jobs/submit.sh FOLDER SHARDS [sbatch options] [-- options of run_mcmc.py]
#   jobs/submit.sh data/runs/main 4 --partition=cpu --time=08:00:00 --cpus-per-task=16 -- --data data/public --folds 5
# The first job simulates a set if there is none, measures the statistics and trains one network; an array trains the
# others; an array infers the shards of the maps; the last job joins and scores them. Each job's id and name is
# printed. Logs go to FOLDER/logs. Jobs that are preempted go on where they were; after a time limit or a fault give
# the same command again: what is done is not repeated. Works from any folder; relative paths are those of the caller.
set -eu
out=${1:-} shards=${2:-}
refuse() {
    echo "submit.sh: error: $1; usage: jobs/submit.sh FOLDER SHARDS [sbatch options] [-- options of run_mcmc.py]" >&2
    exit 2
}
if [ -z "$out" ] || [[ "$out" =~ [[:cntrl:]] ]] || ! [[ "$shards" =~ ^[1-9][0-9]{0,3}$ ]]; then
    refuse "expected a folder and a number of shards from 1 to 9999, got ${out@Q} ${shards@Q}"
fi
shift 2
site=() before=
while [ $# -gt 0 ] && [ "$1" != -- ]; do        # an option, or the value of the one before
    [[ "$1" == -* || ( "$before" == -* && "$before" != *=* ) ]] || refuse "expected an option of sbatch, got ${1@Q}"
    site+=("$1") before=$1
    shift
done
[ $# -eq 0 ] || shift
root=$(cd "$(dirname "$0")/.." && pwd)
plan=$("$root/jobs/run.sh" jobs/networks.py "$@") || exit      # wrong options: before any job
[[ "$plan" =~ ^[0-9]+\ [0-9]+$ ]] || { echo "$plan"; exit 0; }      # --help
read -r networks first <<<"$plan"
allowed=()
for option in "$@"; do
    [ "$option" = --allow-unconverged ] && allowed=("$option")
done
mkdir -p "$out/logs" 2>/dev/null || refuse "${out@Q}: no such folder can be made"

submit() {       # name, what it waits for, array or nothing, command; sets id
    local name=$1 after=$2 array=$3 log=%j
    shift 3
    local options=(--parsable --job-name="wl-$name" --ntasks=1 --cpus-per-task=2 --mem=3G --time=04:00:00 --requeue
        --open-mode=append --signal=B:TERM@120 --chdir="$PWD")
    [ -z "$after" ] || options+=(--dependency="afterok:$after" --kill-on-invalid-dep=yes)
    [ -z "$array" ] || { options+=(--array="$array"); log=%A_%a; }
    id=$(sbatch "${options[@]}" --output="${out//%/%%}/logs/$name-$log.log" ${site[@]+"${site[@]}"} \
        --wrap="exec $(printf '%q ' bash "$root/jobs/run.sh" "$@")") || id=
    id=${id%%;*}                                 # "job;cluster" where there are several clusters
    if ! [[ "$id" =~ ^[0-9]+$ ]]; then
        echo "submit.sh: error: sbatch made no job $name${jobs:+; cancel those before it by scancel$jobs}" >&2
        exit 1
    fi
    jobs+=" $id"
    echo "$id $name"
}

jobs='' run=(run_mcmc.py "$@" --out "$out")
if [ "$networks" -gt 1 ]; then
    others=
    [ "$first" -eq 0 ] || others=0-$((first - 1))
    [ "$first" -eq $((networks - 1)) ] || others+=${others:+,}$((first + 1))-$((networks - 1))
    submit measure "" "" "${run[@]}" --only "$first"
    submit network "$id" "$others" "${run[@]}" --only @task
    submit infer "$id" "1-$shards" "${run[@]}" --shard "@task/$shards"
else
    submit infer-first "" "" "${run[@]}" --shard "1/$shards"
    [ "$shards" -eq 1 ] || submit infer "$id" "2-$shards" "${run[@]}" --shard "@task/$shards"
fi
names=()
for ((i = 1; i <= shards; i++)); do
    names+=("$out/posterior.shard-$i-of-$shards.h5")
done
submit score "$id" "" run_score.py "${names[@]}" --merge "$out/posterior.h5" ${allowed[@]+"${allowed[@]}"}
