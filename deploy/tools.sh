#!/usr/bin/env bash
# kubectl and prometheus for the tests of this folder, into the folder given: from Debian's packages, unpacked and not
# installed, so that no root is needed and no daemon starts. What the machine has already is used as it is.
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
