#!/usr/bin/env bash
# What the tests of this folder need of Debian 12 (or Ubuntu): buildah, podman, a registry, debootstrap,
# and Apptainer. What is there already is left as it is. Apptainer is not in Debian 12: that of Debian
# sid is unpacked, with the C library it wants in a folder of its own; where that fails, one line
# says so, and only its tests are skipped.
set -euo pipefail

RUNTIME=/opt/apptainer-runtime
export DEBIAN_FRONTEND=noninteractive
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_packages() {
  for pause in 5 30 0; do
    if { apt-get update -qq && apt-get install -qq --yes --no-install-recommends "$@"
       } </dev/null >"$work/log" 2>&1; then
      return
    fi
    sleep "$pause"
  done
  cat "$work/log" >&2
  return 1
}

# apt against sid, with a state of its own.
sid() {
  local command=$1
  shift
  mkdir -p "$work"/sid/{lists/partial,cache/archives/partial,parts}
  : >"$work/sid/status"
  printf 'Types: deb\nURIs: %s\nSuites: sid\nComponents: main\nSigned-By: %s\n' "$MIRROR" \
    /usr/share/keyrings/debian-archive-keyring.gpg >"$work/sid/parts/sid.sources"
  "$command" -o Dir::State::lists="$work/sid/lists" -o Dir::Cache="$work/sid/cache" \
    -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sid/parts" \
    -o Dir::State::status="$work/sid/status" -o APT::Sandbox::User=root "$@"
}

install_apptainer() {
  local libraries=(libc6 libseccomp2 libsqlite3-0 libgcc-s1) library program loader
  if [[ $(uname -m) != x86_64 || ! -r /etc/apt/sources.list.d/debian.sources ]]; then
    echo "no Debian 12 on x86-64"
    return 1
  fi
  MIRROR=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
  install_packages patchelf squashfuse fuse-overlayfs squashfs-tools uidmap
  sid apt-get update -qq
  (cd "$work" && sid apt-get download -qq apptainer "${libraries[@]}")
  mkdir -p "$RUNTIME/lib" "$work/unpacked"
  for library in "${libraries[@]}"; do
    dpkg-deb -x "$work/$library"_*.deb "$work/unpacked"
  done
  find "$work/unpacked" -type d -name x86_64-linux-gnu -exec cp -a {}/. "$RUNTIME/lib/" \;
  loader=$(find "$work/unpacked" -name 'ld-linux-x86-64.so.2' -type f -print -quit)
  cp "$loader" "$RUNTIME/lib/ld-linux-x86-64.so.2"
  dpkg-deb --fsys-tarfile "$work"/apptainer_*.deb | tar -C / --keep-directory-symlink -x \
    --exclude=./usr/share/doc --exclude=./usr/share/man
  for program in /usr/bin/apptainer /usr/lib/x86_64-linux-gnu/apptainer/bin/starter; do
    patchelf --set-interpreter "$RUNTIME/lib/ld-linux-x86-64.so.2" --force-rpath \
      --set-rpath "$RUNTIME/lib" "$program"
  done
  apptainer --version
}

missing=()
for command in buildah podman runc docker-registry debootstrap; do
  command -v "$command" >/dev/null || missing+=("$command")
done
if [[ ${#missing[@]} -gt 0 ]]; then
  if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "not here: ${missing[*]}; and no root or no apt-get to install it" >&2
    exit 2
  fi
  install_packages buildah podman runc catatonit debootstrap docker-registry ca-certificates
fi
echo "$(buildah --version | cut -d' ' -f1-3), $(podman --version)"

command -v apptainer >/dev/null || {
  # Not in a condition, where set -e would not hold.
  set +e
  (set -e; install_apptainer) >"$work/apptainer.log" 2>&1 </dev/null
  failed=$?
  set -e
  if [[ $failed -ne 0 ]]; then
    rm -f /usr/bin/apptainer
    echo "Apptainer cannot be installed here ($(tail -n 1 "$work/apptainer.log")): without its tests"
    exit
  fi
}
# As udev has it; else only root could mount an image.
[[ ! -c /dev/fuse ]] || chmod 666 /dev/fuse
apptainer --version
