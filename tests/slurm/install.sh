#!/usr/bin/env bash
# Slurm, munge and MariaDB from Debian's or Ubuntu's packages, for the tests of this folder, and Open
# MPI, for those of training under mpiexec. What is there already is left as it is. The server of
# MariaDB comes without its service.
set -euo pipefail

missing=()
for command in slurmctld slurmd slurmdbd munged sbatch sacct mariadbd mariadb-install-db mpiexec; do
  command -v "$command" >/dev/null || missing+=("$command")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "Slurm $(slurmd -V | cut -d' ' -f2) is installed"
  exit
fi
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "not here: ${missing[*]}; and no root or no apt-get to install it" >&2
  exit 2
fi

packages=(slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin munge
  mariadb-server-core mariadb-client-core openmpi-bin)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
for pause in 5 30 0; do
  if { apt-get update -qq && apt-get install -qq --yes --no-install-recommends "${packages[@]}"
     } </dev/null >"$log" 2>&1; then
    echo "installed Slurm $(slurmd -V | cut -d' ' -f2)"
    exit
  fi
  sleep "$pause"
done
cat "$log" >&2
exit 1
