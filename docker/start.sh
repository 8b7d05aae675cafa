#!/bin/sh
# start.sh ROLE: run one role of the broker; `upgrade` brings the database to the newest schema and ends.
# BROKER_CONFIG names the settings (default /etc/broker/broker.toml). A role waits for the schema up to BROKER_WAIT seconds.
set -eu
role="${1:-web}"
config="${BROKER_CONFIG:-/etc/broker/broker.toml}"
wait="${BROKER_WAIT:-120}"
case "$role" in
upgrade) command="broker db upgrade" ;;
web | receiver | mllp | fetch | worker) command="broker db current" ;;
*)
    echo "start.sh: there is no role '$role' (web, receiver, mllp, fetch, worker, upgrade)" >&2
    exit 2
    ;;
esac
while ! $command --config "$config" >/dev/null; do
    wait=$((wait - 1))
    [ "$wait" -gt 0 ] || { echo "start.sh: the database is not ready" >&2; exit 1; }
    sleep 1
done
[ "$role" = upgrade ] && exit 0
exec broker serve --config "$config" --role "$role"
