#!/bin/bash
# One command of a job on a node: jobs/run.sh run_mcmc.py --data data/public; @task stands for the task of an array.
# Threads, scratch and cache folders are those that Slurm gives. Signals reach Python, which saves and exits 75.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
script=$1
shift
python=$root/.venv/bin/python
[ -x "$python" ] || python=${WL_PYTHON:-python3}
export TMPDIR="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
# compiled code on the node's own disk: a home folder shared by many nodes is slow, or not writable there
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$TMPDIR/wl-numba-$(id -u)}"
threads=()
[ "$script" != run_mcmc.py ] || threads=(--threads "${SLURM_CPUS_PER_TASK:-$(nproc)}")
exec "$python" "$root/$script" "${threads[@]}" "${@//@task/${SLURM_ARRAY_TASK_ID:-}}"
