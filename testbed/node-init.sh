#!/usr/bin/env bash
# The first process of a node's namespaces (network, mounts, host name, IPC, pids). Started by nodes.py.
#   node-init.sh NAME ADDRESS FOLDER BINARIES PACKAGES IMAGES ETC
# Everything it mounts is in its own mount namespace and ends with it.
set -u
name=$1 address=$2 folder=$3 binaries=$4 packages=$5 images=$6 etc=$7
export PATH=$binaries:$packages/usr/bin:$packages/usr/sbin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
hostname "$name"
mount --make-rslave /
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/containerd /run/netns /run/node
mount --bind "$folder" /run/node
mount --bind "$folder/log" /var/log
# Writes to fixed places (/var/lib/cni, /var/lib/kubelet, /etc/cni, /usr/libexec/kubernetes) land in the node's folder.
for place in var/lib etc usr/libexec; do
    mkdir -p "$folder/over/$place/upper" "$folder/over/$place/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=$folder/over/$place/upper,workdir=$folder/over/$place/work" overlay "/$place"
done
# The kubelet writes a few sysctls of the whole machine; it gets files in their place.
for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$folder/fake/${pair%=*}
    mkdir -p "$(dirname "$file")"
    echo "${pair#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${pair%=*}"
done
for pair in net/ipv4/ip_forward=1 net/bridge/bridge-nf-call-iptables=1 net/ipv4/conf/all/rp_filter=0 \
    net/ipv4/conf/default/rp_filter=0; do
    [ ! -e "/proc/sys/${pair%=*}" ] || echo "${pair#*=}" >"/proc/sys/${pair%=*}"
done
children=()
trap 'kill "${children[@]}" 2>/dev/null; sleep 0.3; exit 0' TERM INT
containerd --config /run/node/containerd.toml >"$folder/log/containerd.log" 2>&1 &
children+=($!)
for _ in $(seq 200); do
    ctr -a /run/node/containerd.sock version >/dev/null 2>&1 && break
    sleep 0.05
done
for archive in "$images"/*.tar; do
    ctr -a /run/node/containerd.sock -n k8s.io images import "$archive" >>"$folder/log/import.log" 2>&1
done
kube-proxy --config="$folder/kube-proxy.yaml" --v=1 >"$folder/log/kube-proxy.log" 2>&1 &
children+=($!)
kubelet --config="$folder/kubelet.yaml" --kubeconfig="$etc/kubelet-$name.kubeconfig" --hostname-override="$name" \
    --node-ip="$address" --root-dir=/run/node/kubelet --v=1 >"$folder/log/kubelet.log" 2>&1 &
children+=($!)
while :; do
    wait -n
    sleep 0.5
done
