#!/bin/bash
# Starts a part of Slurm that stop.sh stopped: tests/slurm/start.sh FOLDER n1|n2|controller
# After a node, waits until both nodes are free.
set -euo pipefail
root=$(realpath "${1:?give a folder}")
export SLURM_CONF=$root/slurm.conf
case ${2:?give n1, n2 or controller} in
  controller) slurmctld ;;
  *)
    slurmd -N "$2"
    "$(dirname "$0")/wait.sh" "$root" 60
    ;;
esac
