#!/usr/bin/env bash
# Which block, chunk and number of warps a kernel should be built with on this GPU, in less than three minutes.
#
#     benchmarks/gpu_sweep.sh              OUT=folder benchmarks/gpu_sweep.sh     PYTHON=python3.12 benchmarks/gpu_sweep.sh
#     benchmarks/gpu_sweep.sh --rehearse   every line, in main memory, without a GPU; times mean nothing
#
# It runs from a source tree, with nothing of it installed. OUT (results/gpu) gets sweep.json and sweep.log, which ends in
# the best choice. The exit code is 0 if all was timed, 1 if something failed, 2 if there is no GPU.

set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1

out=${OUT:-$root/results/gpu}
here=$(mktemp -d) || exit 1
trap 'rm -rf "$here"' EXIT

export PYTHONPATH="$root/src:$root/benchmarks" PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=$here/pyc
export STEPRULE_CACHE=$here/kernels TRITON_CACHE_DIR=$here/triton
unset TRITON_INTERPRET

slower=1 # a rehearsal may take longer: no GPU waits
[ "${1-}" != --rehearse ] || slower=10
timeout -s INT -k 5 $((160 * slower)) "${PYTHON:-python3}" "$root/benchmarks/gpu_sweep.py" --out "$out" "$@" 2>&1 |
  tee "$here/sweep.log"
code=$?
[ "$code" -eq 2 ] || cp "$here/sweep.log" "$out/"
exit "$code"
