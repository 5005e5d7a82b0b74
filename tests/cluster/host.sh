#!/usr/bin/env bash
# Process 1 of a host (host.py): gives it a machine's own files, prints its id outside, reaps, and never ends.
# It is started by unshare in namespaces of its own, so what it mounts is not seen outside and ends with it.
#
#   host.sh CLUSTER NAME DIR HOME [SHARED…]
#
# DIR/root has the host's own /tmp and HOME, DIR/etc what differs in its /etc. SHARED: folders below /tmp or HOME that stay.
set -euo pipefail

cluster=$1 name=$2 dir=$3 home=$4
shift 4
read -r pid _ </proc/self/stat # /proc is still that of outside

hostname "$name"
for own in /tmp "$home"; do
    for shared; do
        if [[ $shared == "$own"/* ]]; then
            mkdir -p "$dir/root$shared"
            mount --rbind "$shared" "$dir/root$shared"
        fi
    done
    mount --rbind "$dir/root$own" "$own"
done
mkdir -p "$dir/cgroup"
mapfile -t cgroups < <(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts)
for root in "${cgroups[@]}"; do
    # The host sees its own part of the tree only: what it leaves there can be found and removed.
    parent=$root
    for part in "$cluster" "$name"; do
        mkdir -p "$parent/$part"
        for file in cpuset.cpus cpuset.mems; do # version 1: empty in a new one, which may then have no process
            if [[ -e $parent/$file ]]; then cat "$parent/$file" >"$parent/$part/$file"; fi
        done
        if [[ -e $parent/cgroup.controllers ]]; then # version 2: controllers are passed down one by one
            sed 's/[a-z]\+/+&/g' "$parent/cgroup.controllers" >"$parent/cgroup.subtree_control"
        fi
        parent=$parent/$part
    done
    mount --bind "$parent" "$dir/cgroup"
    umount --lazy "$root" # runc believes in the first mount of each kind, a hidden one too
    mount --move "$dir/cgroup" "$root"
done
mkdir -p "$dir/etc.work"
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc.work" overlay /etc
if [[ ! -e $dir/etc/docker ]]; then rm -rf /etc/docker; fi # this machine's; a daemon is known by the key that is there
mount -t tmpfs -o mode=755 tmpfs /run # sockets and pid files: each daemon has the path that it has on any machine
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t proc proc /proc
mkdir /run/sshd /run/lock

echo "$pid"
exec </dev/null >/dev/null 2>&1
sleep infinity &
wait
