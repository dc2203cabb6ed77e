#!/usr/bin/env bash
# Trains the weights that come with the package and puts them in their place: launch/release.sh FOLDER [cpu|wide] [flags]
# FOLDER holds the sets that configs/release.py names; `cpu` trains the reduced network, hours on
# two cores, `wide` the full width at half the resolution. Started again, it goes on where it was. --only=default,further
# leaves out the two specialists, and the later stretches of `wide`.
set -euo pipefail
root=$(realpath "${1:?the folder of the sets is missing; see the head of this file}")
cd "$(dirname "$0")/.."
root=$(realpath --relative-to=. "$root")
shift
size=release config=configs/release.py
if [ "${1:-}" = cpu ] || [ "${1:-}" = wide ]; then
  size=release-$1 config=configs/release.py:$1
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 # large pages, where the system gives them on request
  shift
else
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} # or a broken driver would leave all to the CPU
  export XLA_FLAGS="--xla_gpu_deterministic_ops=true ${XLA_FLAGS:-}" # or a resumed run would differ in its last digits
fi
results=runs/$size # or --results=FOLDER: results/ holds rows of the published trainings, which would count as done
workdir=runs/$size
source launch/flags.sh
read_flags "$@"
failed=0
python -m qsnet_jax.main --mode=study --config="$config" --config.data.root="$root" \
  --results="$results" "$@" ||
  { failed=$?; [ "$failed" = 3 ] || exit "$failed"; } # 3: a run failed, and left a row
names='default further light heavy'
if [ "$size" = release-wide ]; then names='default further longer fourth fifth sixth seventh light heavy light_further heavy_further'; fi
for name in $names; do
  weights="${workdir/#\~\//$HOME/}/$name-0/weights.safetensors"
  case $name in further | longer | fourth | fifth | sixth | seventh) name=default ;; esac # they go on with it
  name=${name%_further}
  if [ -f "$weights" ]; then
    cp -v "$weights" "qsnet_jax/weights/$name.safetensors"
  else
    echo "not found: $weights, so nothing of it comes into qsnet_jax/weights"
  fi
done
python -m qsnet_jax.main --mode=report --results="$results"
exit $failed
