#!/usr/bin/env bash
# Headless Chromium for the tests of the page, as FOLDER/chromium: from Debian's packages and those they need, unpacked
# and not installed, so that no root is needed. What the machine has already is used as it is.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd -P)
cd "$folder"
if [ -x chromium ]; then exit; fi
for command in chromium chromium-headless-shell; do
  if command -v $command >/dev/null; then
    ln -s "$(command -v $command)" chromium
    exit
  fi
done
if ! command -v apt-get >/dev/null; then
  echo "the tests of the page need Chromium: install it so that 'chromium' is a command" >&2
  exit 1
fi
missing() {
  apt-get install --simulate --no-install-recommends chromium-headless-shell fonts-inter | sed -n 's/^Inst \([^ ]*\).*/\1/p'
}
download() { apt-get download -qq $(missing) 2>/dev/null; }
download || { apt-get update -qq && download; }
for package in *.deb; do dpkg-deb --extract "$package" .; done
rm ./*.deb
libraries=$(find "$folder/usr/lib" -name '*.so*' -not -path '*/chromium/*' -printf '%h\n' | sort -u | paste -sd:)
printf '<fontconfig><dir>%s/usr/share/fonts</dir><dir>/usr/share/fonts</dir></fontconfig>\n' "$folder" >fonts.conf
cat >chromium <<END
#!/bin/sh
LD_LIBRARY_PATH=$libraries FONTCONFIG_FILE=$folder/fonts.conf exec $folder/usr/lib/chromium/chromium-headless-shell "\$@"
END
chmod +x chromium
