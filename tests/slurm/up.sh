#!/bin/bash
# Starts a Slurm of two nodes on this machine, for tests: tests/slurm/up.sh FOLDER
# Needs root, and slurm-wlm and munge. Each node has 4 CPUs, 4,000 MB and 2 GPUs, as configured: none of it is real.
# Then set SLURM_CONF=FOLDER/slurm.conf. `tests/slurm/down.sh FOLDER` stops it.
set -euo pipefail
root=${1:?give a folder}
mkdir -p "$root"/{munge,state,spool/n1,spool/n2}
root=$(realpath "$root")
chmod 755 "$root" "$root/munge"
export SLURM_CONF=$root/slurm.conf

# munge refuses a key that others can read.
(umask 077 && head -c 1024 /dev/urandom > "$root/munge/key")
cat > "$SLURM_CONF" << END
ClusterName=vadpipe
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=17817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd-%n.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd-%n.log
# Without systemd, control groups and a database.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SlurmdParameters=config_overrides
# Quick decisions.
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
KillWait=2
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=300
ReturnToService=2
MaxArraySize=1001
# A job of the partition "urgent" takes the place of others.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17821 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17822 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
END
# Files that exist everywhere stand for the GPUs.
echo "NodeName=n[1-2] Name=gpu File=/dev/tty[0-1]" > "$root/gres.conf"

munged --key-file="$root/munge/key" --socket="$root/munge/socket" --pid-file="$root/munged.pid" \
  --log-file="$root/munge/log" --seed-file="$root/munge/seed" --num-threads=2
slurmctld
slurmd -N n1
slurmd -N n2
"$(dirname "$0")/wait.sh" "$root" 30
