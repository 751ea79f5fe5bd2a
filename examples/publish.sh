#!/bin/sh
# A web server in a namespace of its own, a port of it published, another one added while it runs, and a client of both.
#   sh examples/publish.sh
# Needs busybox and curl.
set -e
ringtap=${RINGTAP:-ringtap}
work=$(mktemp -d)
echo "hello from inside" > "$work/index.html"
"$ringtap" run --ready-fd 3 -p 127.0.0.1:18080:80 -- busybox httpd -f -v -p 80 -h "$work" 3> "$work/ready" 2> "$work/log" &
instance=$!
trap 'kill $instance; wait $instance || true; rm -rf "$work"' EXIT
until [ -s "$work/ready" ]; do kill -0 $instance; sleep 0.01; done

# The network works; the server may still be starting.
curl -sS --retry 20 --retry-connrefused --retry-delay 1 --retry-all-errors http://127.0.0.1:18080/
"$ringtap" port --instance $instance add 127.0.0.1:18081:80
curl -sS http://127.0.0.1:18081/
"$ringtap" port --instance $instance ls
echo "The server has seen:"
cat "$work/log"
