#!/bin/bash
# Stops a part of the Slurm that up.sh started: tests/slurm/stop.sh FOLDER n1|n2|controller
# A node dies with everything that runs on it. `tests/slurm/start.sh` starts it again.
set -euo pipefail
root=$(realpath "${1:?give a folder}")
export SLURM_CONF=$root/slurm.conf
case ${2:?give n1, n2 or controller} in
  controller)
    # In order: one that dies forgets which jobs run, and then takes their nodes out of service.
    kill "$(cat "$root/slurmctld.pid")"
    while scontrol ping | grep -q "is UP"; do sleep 0.1; done
    ;;
  *)
    jobs=$(squeue --noheader --nodelist="$2" --format=%A)
    kill -9 "$(cat "$root/slurmd-$2.pid")"
    for job in $jobs; do
      # A job may end by itself meanwhile.
      for step in $(pgrep -f "slurmstepd: \[$job.batch\]"); do
        kill -9 "$step" $(pgrep -P "$step") || true
      done
    done
    ;;
esac
