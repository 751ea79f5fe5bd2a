#!/bin/sh
# A container's network, by hand: inside `ringtap run`, a bridge with a namespace behind it, and a command there.
#   ringtap run -- sh examples/bridge.sh curl -sS http://example.org
# Needs iproute2, nftables and util-linux inside.
set -e
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link add br0 type bridge
ip addr add 172.20.0.1/24 dev br0
ip link set br0 up
nft add table ip nat
nft 'add chain ip nat post { type nat hook postrouting priority 100; }'
nft add rule ip nat post oifname tap0 masquerade

# The namespace lives as long as this sleep does.
unshare --net sleep 3600 &
holder=$!
trap 'kill $holder' EXIT
while [ "$(readlink /proc/$holder/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add veth0 master br0 up type veth peer name eth0 netns "$holder"
inside="nsenter --net=/proc/$holder/ns/net"
$inside ip link set lo up
$inside ip addr add 172.20.0.2/24 dev eth0
$inside ip link set eth0 up
$inside ip route add default via 172.20.0.1
$inside "$@"
