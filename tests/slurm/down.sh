#!/bin/bash
# Stops the Slurm that up.sh started: tests/slurm/down.sh FOLDER
root=$(realpath "${1:?give a folder}")
export SLURM_CONF=$root/slurm.conf
scancel --me 2> /dev/null && sleep 1
for file in "$root"/slurmd-n1.pid "$root"/slurmd-n2.pid "$root"/slurmctld.pid "$root"/munged.pid; do
  [ -s "$file" ] || continue
  pid=$(cat "$file")
  # The number may be that of another process by now.
  case $(readlink "/proc/$pid/exe") in
    */slurmd* | */slurmctld* | */munged*) kill "$pid" ;;
    *) continue ;;
  esac
  # A process that has ended has no program, also if nobody has waited for it.
  for _ in $(seq 50); do readlink "/proc/$pid/exe" > /dev/null && sleep 0.1; done
  readlink "/proc/$pid/exe" > /dev/null && kill -9 "$pid"
done
exit 0
