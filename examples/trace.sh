#!/bin/sh
# What a command does on the network, as a file for Wireshark: every frame with its flow and the host's socket.
#   sh examples/trace.sh trace.pcapng curl -sS http://example.org
set -e
ringtap=${RINGTAP:-ringtap}
file=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/go"
# The command waits until somebody looks.
"$ringtap" run --state-dir "$work/state" -- sh -c 'read -r _ < "$0" && exec "$@"' "$work/go" "$@" &
instance=$!
until [ -S "$work/state/api.sock" ]; do kill -0 $instance; sleep 0.01; done
"$ringtap" capture "$work/state" -w "$file" &
capture=$!
until [ -s "$file" ]; do kill -0 $capture; sleep 0.01; done
echo > "$work/go"
wait $instance
wait $capture
