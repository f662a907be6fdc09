#!/usr/bin/env bash
# Serves the shipped cube-single policy and drives the simulated arm through POST /act, for ten episodes of fixed seeds.
# Extra arguments are passed to sorl-drive. RECORD_DIR=folder also records every request, for sorl-replay.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.venv/bin
log=$(mktemp)
if [ -n "${RECORD_DIR:-}" ]; then export SORL_RECORD_DIR="$RECORD_DIR"; fi
SORL_MODEL=deploy/policies/cube-single.safetensors SORL_PORT=0 SORL_DRAIN_GRACE_SECONDS=0 $bin/sorl-serve 2>"$log" &
server=$!
trap 'kill -TERM $server 2>/dev/null; wait $server 2>/dev/null || { cat "$log" >&2; }; rm -f "$log"' EXIT
until url=$(grep -om1 'http://127.0.0.1:[0-9]*' "$log"); do
  kill -0 $server 2>/dev/null || exit 1
  read -rt 0.1 <> <(:) || true
done
$bin/sorl-drive "$url" --task cube-single-play-singletask-task2-v0 \
  --wait-s 120 --episodes 10 --seed 0 --no-realtime --require-successes 9 "$@"
