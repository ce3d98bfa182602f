#!/bin/bash
# Waits until both nodes of the Slurm that up.sh started are free: tests/slurm/wait.sh FOLDER SECONDS
root=$(realpath "${1:?give a folder}")
export SLURM_CONF=$root/slurm.conf
for _ in $(seq $((4 * ${2:?give seconds}))); do
  [ "$(sinfo --noheader --Node --partition=main --format=%T 2> /dev/null | grep -c idle)" = 2 ] && exit 0
  sleep 0.25
done
echo "the nodes are not up; see $root" >&2
exit 1
