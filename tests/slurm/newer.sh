#!/usr/bin/env bash
# newer.sh SUITE [pytest arguments]: the tests of this folder on the Slurm of another Debian suite
# (trixie, sid), in a chroot under build/. Everything else is the host's: Python, packages, checkout.
# Needs root, debootstrap and a network for the first time; Debian 12's glibc runs on newer ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=$1
shift
root=$PWD/build/slurm-$suite
packages=slurmctld,slurmd,slurm-client,slurmdbd,slurm-wlm-mysql-plugin,munge
packages+=,mariadb-server-core,mariadb-client-core,procps
# What the host's Python and torch are linked to.
packages+=,libffi8,libgomp1,libssl3,libsqlite3-0,libbz2-1.0,liblzma5
if [[ $(id -u) -ne 0 ]] || ! command -v debootstrap >/dev/null; then
  echo "make slurm-test SLURM=$suite: needs root and debootstrap (apt-get install debootstrap)" >&2
  exit 2
fi
if [[ ! -e $root/.complete ]]; then
  mkdir -p build
  rm -rf "$root"
  debootstrap --variant=minbase "$suite" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
    >"$root.log" || { tail -n 20 "$root.log" >&2; exit 1; }
  # Packages are not to start services.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  chroot "$root" sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install \
    -qq --yes --no-install-recommends ${packages//,/ }" >>"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; exit 1; }
  touch "$root/.complete"
fi
# In a mount namespace of its own, so that nothing stays mounted. What Python reads is where it is
# outside: its prefix, the checkout, and packages of other environments.
mapfile -t folders < <(.venv/bin/python -c 'import os, sys
found = {sys.base_prefix, os.getcwd(), *filter(os.path.isdir, sys.path)}
print(*sorted(f for f in found if not any(f.startswith(o + "/") for o in found)), sep="\n")')
export root suite
unshare --mount --propagation private bash -c '
  for name in proc sys dev tmp; do mount --rbind "/$name" "$root/$name"; done
  for folder in '"${folders[*]@Q}"'; do
    mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder"
  done
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  grep -q "127.0.0.1" "$root/etc/hosts" 2>/dev/null || cp /etc/hosts "$root/etc/hosts"
  exec chroot "$root" bash -c "cd \"\$1\" && shift && export HOME=/root PATH=\$PWD/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin && slurmd -V && exec .venv/bin/python -m pytest tests/slurm \"\$@\"" bash "$@"
' bash "$PWD" "$@"
