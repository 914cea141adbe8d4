#!/bin/bash
# The main job as an array on a Slurm cluster: jobs/array.sh data/runs/main 8 --data data/public
# Shard 1 trains the network, the others follow side by side, and a last job joins and scores them. The folder is
# that of the results; what follows the number of shards goes to run_mcmc.py. Run from the clone.
set -eu
out=${1:-} shards=${2:-} allowed=
if [ -z "$out" ] || ! [[ "$shards" =~ ^[1-9][0-9]{0,3}$ ]]; then
    echo "array.sh: error: expected a folder and a number of shards from 1 to 9999, got '$out' '$shards';" \
        "usage: jobs/array.sh FOLDER SHARDS [options of run_mcmc.py]" >&2
    exit 2
fi
shift 2
for option in "$@"; do
    [ "$option" = --allow-unconverged ] && allowed=" $option"
done
python=.venv/bin/python
[ -x "$python" ] || python=python3
jobs=$(dirname "$0")
# WL_SHARDS by name: a site that hands no environment to jobs would turn every task into a whole run
task=(sbatch --parsable --export="ALL,WL_SHARDS=$shards")
after=$("${task[@]}" --array=1 "$jobs/mcmc.sbatch" "$@" --out "$out")
after=${after%%;*}                                  # "job;cluster" where there are several clusters
if [ "$shards" -gt 1 ]; then
    after=$("${task[@]}" --array="2-$shards" --dependency="afterok:$after" --kill-on-invalid-dep=yes \
        "$jobs/mcmc.sbatch" "$@" --out "$out")
    after=${after%%;*}
fi
printf -v folder %q "$out"
sbatch --parsable --job-name=wl-merge --output=wl-merge-%j.log --dependency="afterok:$after" --kill-on-invalid-dep=yes \
    --wrap="exec $python run_score.py $folder/posterior.shard-*-of-$shards.h5 --merge $folder/posterior.h5$allowed"
