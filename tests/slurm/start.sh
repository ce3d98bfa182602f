#!/bin/bash
# Starts a part of Slurm that stop.sh stopped: tests/slurm/start.sh FOLDER n1|n2|controller
# After a node, waits until both nodes are free.
set -euo pipefail
root=$(realpath "${1:?give a folder}")
export SLURM_CONF=$root/slurm.conf
case ${2:?give n1, n2 or controller} in
  controller)
    slurmctld
    exit 0
    ;;
  *) slurmd -N "$2" ;;
esac
for _ in $(seq 240); do
  [ "$(sinfo --noheader --Node --partition=main --format=%T 2> /dev/null | grep -c idle)" = 2 ] && exit 0
  sleep 0.25
done
echo "the nodes are not up; see $root" >&2
exit 1
