#!/usr/bin/env bash
# A Slurm of one node on this machine, reachable from this machine alone, to try launcher=slurm: about two minutes
# on Debian or Ubuntu, as root. Two GPUs are simulated (counted, and given out through CUDA_VISIBLE_DEVICES).
#
#   docs/slurm_on_one_machine.sh <folder> && export SLURM_CONF=<folder>/slurm.conf
#   pytest -m slurm
#
# To end it: kill $(cat <folder>/*.pid) $(cat /run/munge/munged.pid); apt-get purge slurm-wlm munge
set -euo pipefail
folder=$(realpath -m "${1:?name a folder for the configuration and the state}")
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"

policy=/usr/sbin/policy-rc.d  # keeps the packages from starting daemons; one that is there already stays
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
install -d -o munge -g munge /run/munge /var/log/munge /var/lib/munge
runuser -u munge -- /usr/sbin/munged --num-threads=2

cat > "$folder/gres.conf" <<END
NodeName=$host Name=gpu File=/dev/tty[0-1]
END
cat > "$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_min_interval=500000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
GresTypes=gpu
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
slurmctld -f "$folder/slurm.conf"
slurmd -f "$folder/slurm.conf" -N "$host"
sleep 3
SLURM_CONF="$folder/slurm.conf" sinfo
