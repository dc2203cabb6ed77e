#!/usr/bin/env bash
# The full-size network with the paper's recipe on one GPU: launch/gpu.sh FOLDER [--config.field=value ...]
# FOLDER holds train/ and val/ (or test/) with rainy and clean files. Started again, it goes on where it was.
set -euo pipefail
root=$(realpath "${1:?the folder of the pairs is missing; see the head of this file}")
cd "$(dirname "$0")/.."
export XLA_FLAGS="--xla_gpu_deterministic_ops=true ${XLA_FLAGS:-}" # or a resumed run would differ in its last digits
exec python -m qsnet_jax.main --config=configs/qsnet.py --config.data.root="$root" "${@:2}"
