#!/usr/bin/env bash
# Puts kubectl and prometheus, which the tests of this folder need, into the given folder. It unpacks Debian's packages
# without installing them, so it needs no root and starts no daemon. Programs that the machine already has are skipped.
set -euo pipefail
folder=$1
mkdir -p "$folder"
cd "$folder"
for pair in kubectl:kubernetes-client prometheus:prometheus; do
  command=${pair%%:*} package=${pair##*:}
  if command -v "$command" >/dev/null || [ -x "usr/bin/$command" ]; then continue; fi
  apt-get download -qq "$package" 2>/dev/null || { apt-get update -qq && apt-get download -qq "$package"; }
  dpkg-deb --extract "$package"_*.deb .
  rm "$package"_*.deb
done
