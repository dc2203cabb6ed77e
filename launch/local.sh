#!/usr/bin/env bash
# Every study on this machine at reduced size, then the report: launch/local.sh PAIRS [flags of --mode=study]
# PAIRS holds train/ and test/ (or val/) with rainy and clean files. Started again, it goes on where it was.
# Three seeds of Tables 3, 4 and 5, one of the others; hours on two CPU cores. On a GPU: JAX_PLATFORMS=cuda launch/local.sh ...
set -euo pipefail
root=$(realpath "${1:?the folder of the pairs is missing; see the head of this file}")
cd "$(dirname "$0")/.."
root=$(realpath --relative-to=. "$root")
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 # large pages, where the system gives them on request
results=runs/small # or --results=FOLDER: results/ holds rows of published trainings, of other images and settings
source launch/flags.sh
read_flags "${@:2}"
failed=0
study() { # status 3: some run failed and left a row that says so; the others go on
  python -m qsnet_jax.main --mode=study --config="configs/$1.py:small" --config.data.root="$root" \
    --results="$results" --compilation_cache=runs/cache "${@:2}" || { failed=$?; [ "$failed" = 3 ] || exit "$failed"; }
}
for name in losses sharing scales; do study "$name" "${@:2}"; done
for name in atrous_rates encoder_stride loss_weights; do study "$name" --config.study.seeds='(0,)' "${@:2}"; done
python -m qsnet_jax.main --mode=report --results="$results"
exit $failed
