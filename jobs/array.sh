#!/bin/bash
# The main job as an array on a Slurm cluster: jobs/array.sh data/runs/main 8 --data data/public
# Shard 1 trains the network, the others follow side by side, and a last job joins and scores them. The folder is
# that of the results; what follows the number of shards goes to run_mcmc.py. Run from the clone.
set -eu
out=${1:?usage: jobs/array.sh FOLDER SHARDS [options of run_mcmc.py]}
export SHARDS=${2:?usage: jobs/array.sh FOLDER SHARDS [options of run_mcmc.py]}
shift 2
python=.venv/bin/python
[ -x "$python" ] || python=python3
jobs=$(dirname "$0")
after=$(sbatch --parsable --array=1 "$jobs/mcmc.sbatch" "$@" --out "$out")
if [ "$SHARDS" -gt 1 ]; then
    after=$(sbatch --parsable --array="2-$SHARDS" --dependency="afterok:$after" --kill-on-invalid-dep=yes \
        "$jobs/mcmc.sbatch" "$@" --out "$out")
fi
sbatch --parsable --job-name=wl-merge --output=wl-merge-%j.log --dependency="afterok:$after" \
    --kill-on-invalid-dep=yes --wrap="exec $python run_score.py '$out'/posterior.shard-*-of-$SHARDS.h5 --merge '$out/posterior.h5'"
