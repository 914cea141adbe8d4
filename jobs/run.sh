#!/bin/bash
# One command of a job on a node: jobs/run.sh run_mcmc.py --data data/public; @task stands for the task of an array.
# Threads, scratch and cache folders are those that Slurm gives. Signals reach Python, which saves and exits 75; a
# preempted job then puts itself back into the queue.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
script=$1
shift
python=${WL_PYTHON:-$root/.venv/bin/python}
[ -n "${WL_PYTHON:-}" ] || [ -x "$python" ] || python=python3
export TMPDIR="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
# compiled code on the node's own disk: a home folder shared by many nodes is slow, or not writable there
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$TMPDIR/wl-numba-$(id -u)}"
threads=()
[ "$script" != run_mcmc.py ] || threads=(--threads "${SLURM_CPUS_PER_TASK:-$(nproc)}")
command=("$python" "$root/$script" "${threads[@]}" "${@//@task/${SLURM_ARRAY_TASK_ID:-}}")
[ -n "${SLURM_JOB_ID:-}" ] || exec "${command[@]}"

"${command[@]}" &
child=$! code=0 told=1
trap 'told=1; kill -TERM "$child" 2>/dev/null || true' TERM
trap 'told=1; kill -USR1 "$child" 2>/dev/null || true' USR1
while [ -n "$told" ]; do         # a signal ends the waiting, not the command
    told= now=0
    wait "$child" || now=$?
    [ "$now" -eq 127 ] || code=$now
done
# Slurm takes a job that ends by itself in the grace of a preemption for finished. A cancelled one is not preempted.
# A second TERM reaches all of the job: not what puts it back.
trap '' TERM USR1
if [ "$code" -eq 75 ] && scontrol show job "$SLURM_JOB_ID" 2>/dev/null | grep -q ' PreemptTime=[0-9]'; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60         # until Slurm ends this script
fi
exit "$code"
