#!/bin/bash
# Process 1 of a node: makes what the kubelet and containerd need of a machine, says so, and waits. All that runs in the node
# ends with it. Arguments: the node's folder, its control group, its name.
set -euo pipefail
folder=$1 group=$2 name=$3
mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"

# A sysfs of this network namespace, with the machine's control groups in it.
mkdir -p "$folder"/{cgroup,run,cni,containers,pods,kubelet,sysctl}
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroup" /sys/fs/cgroup
umount -l "$folder/cgroup"

# Paths that programs have fixed.
mount -t tmpfs run /run
mkdir -p /run/netns /var/log/containers /var/log/pods /var/lib/cni /var/lib/kubelet
mount --bind "$folder/containers" /var/log/containers
mount --bind "$folder/pods" /var/log/pods
mount --bind "$folder/cni" /var/lib/cni
mount --bind "$folder/kubelet" /var/lib/kubelet

# The kubelet sets these for the whole machine: it gets files of its own to write them to.
while read -r key value; do
  [ -e "/proc/sys/$key" ] || continue
  echo "$value" >"$folder/sysctl/${key//\//-}"
  mount --bind "$folder/sysctl/${key//\//-}" "/proc/sys/$key"
done <<KEYS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
KEYS
mount --make-rshared /

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir -p "/sys/fs/cgroup/$group"
  for controller in cpuset cpu memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    echo "+$controller" >"/sys/fs/cgroup/$group/cgroup.subtree_control"
  done
else
  for hierarchy in /sys/fs/cgroup/*/; do
    # systemd leaves folders there in which no hierarchy is mounted.
    [ -e "${hierarchy}cgroup.procs" ] || continue
    [ "$hierarchy" = /sys/fs/cgroup/unified/ ] || mkdir -p "$hierarchy$group"
  done
  # A new one has neither processors nor memory.
  for file in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$group/$file"; done
  echo 1 >"/sys/fs/cgroup/cpuset/$group/cgroup.clone_children"
fi

echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables
echo ready
# Bash waits for orphans too; without children there is nothing to wait for.
while :; do sleep 1000 & wait $! || true; done
