#!/usr/bin/env bash
# The full-size runs on one GPU, in the order Table 4, Table 5, atrous rates: launch/gpu.sh PAIRS [flags of --mode=study]
# PAIRS holds train/ and test/ (or val/) with rainy and clean files. The first run is the paper's recipe itself. Started
# again, it goes on where it was, to the same digits; --config.study.seeds='(0,)' for one seed.
set -euo pipefail
root=$(realpath "${1:?the folder of the pairs is missing; see the head of this file}")
cd "$(dirname "$0")/.."
root=$(realpath --relative-to=. "$root")
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} # or a broken driver would leave 48 trainings to the CPU
export XLA_FLAGS="--xla_gpu_deterministic_ops=true ${XLA_FLAGS:-}" # or a resumed run would differ in its last digits
results=runs/full # or --results=FOLDER: results/ holds rows of published trainings, of other images and settings
source launch/flags.sh
read_flags "${@:2}"
failed=0
for name in losses sharing atrous_rates; do
  python -m qsnet_jax.main --mode=study --config="configs/$name.py" --config.data.root="$root" \
    --results="$results" --compilation_cache=runs/cache "${@:2}" ||
    { failed=$?; [ "$failed" = 3 ] || exit "$failed"; } # 3: a run failed, and left a row
done
python -m qsnet_jax.main --mode=report --results="$results"
exit $failed
