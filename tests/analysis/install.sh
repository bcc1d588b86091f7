#!/usr/bin/env bash
# Chromium from Debian's or Ubuntu's packages, for the browser tests of this folder. What is there
# already is left as it is.
set -euo pipefail

for browser in chromium chromium-browser google-chrome; do
  if command -v "$browser" >/dev/null; then
    echo "$("$browser" --version 2>/dev/null) is installed"
    exit
  fi
done
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "no Chromium here, and no root or no apt-get to install it" >&2
  exit 2
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
for pause in 5 30 0; do
  if { apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium fonts-dejavu-core
     } </dev/null >"$log" 2>&1; then
    chromium --version
    exit
  fi
  sleep "$pause"
done
cat "$log" >&2
exit 1
