#!/usr/bin/env bash
# What a GPU is asked first, in one command of less than ten minutes: the smoke, the tests of the rung `gpu`, the bench,
# and one table last.
#
#     benchmarks/gpu.sh                    OUT=folder benchmarks/gpu.sh      PYTHON=python3.12 benchmarks/gpu.sh
#     benchmarks/gpu.sh --rehearse         every line, in main memory, without a GPU; times mean nothing
#
# It runs from a source tree, with nothing of it installed. OUT (results/gpu) gets gpu.log, rung.log and bench.log,
# smoke.json, bench.json and bench.svg. A part that has passed, with these sources and on this GPU, is not done again; one
# that fails or runs out of its time stops no other. The exit code is 0 if all has passed, 1 if not, 2 if there is no GPU.

set -uom pipefail # -m: each part is a job of its own, which ctrl-C and its limit end with all its children
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1

python=${PYTHON:-python3}
here=$(mktemp -d) || exit 1
part=
trap 'rm -rf "$here"' EXIT
trap '[ -z "$part" ] || kill -INT "$part"; echo "== interrupted"; exit 130' INT TERM

rehearse=()
case "${1-}" in
  '') ;;
  --rehearse) rehearse=(--rehearse) ;;
  *) echo "benchmarks/gpu.sh: $1 is no option; there is --rehearse" >&2; exit 64 ;;
esac

# Nothing is written into the tree or the home folder; kernels that one part has compiled are there for the next.
export PYTHONPATH="$root/src:$root/benchmarks" PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=$here/pyc MPLCONFIGDIR=$here/mpl
export STEPRULE_CACHE=$here/kernels TRITON_CACHE_DIR=$here/triton TORCHINDUCTOR_CACHE_DIR=$here/inductor
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 # what else is installed there has nothing to say
unset TRITON_INTERPRET

key() { # what a result depends on: the sources, and the GPU
  cd "$root" && find src benchmarks tests \( -name '*.py' -o -name '*.sh' \) -print0 | LC_ALL=C sort -z | xargs -0 cat | cksum |
    tr ' ' -
  echo "$gpu"
}

limited() { # seconds, command...: interrupted then, and killed five seconds later
  timeout -s INT -k 5 "$(($1 * slower))" "${@:2}" &
  part=$!
  wait "$part"
  local code=$?
  part=
  return "$code"
}

do_part() { # name, seconds, where it prints to, command...
  local name=$1 limit=$2 to=$3 began=$SECONDS code
  if grep -qxF "== $name passed: $key" "$log"; then
    echo "== $name has passed before: it is not done again"
    return
  fi
  echo "== $name: at most $limit s; ${to##*/}"
  [ "$to" = "$log" ] || : >"$to"
  limited "$limit" "${@:4}" >>"$to" 2>&1
  code=$?
  case $code in
    0) echo "== $name passed: $key" ;;
    124 | 137) echo "== $name ran out of its $limit s" ;;
    *) echo "== $name failed: exit code $code" ;;
  esac
  [ "$code" -eq 0 ] || failed=1
  echo "== $name took $((SECONDS - began)) s"
}

# Each limit is in seconds, of a GPU; with five more to be killed in they come to less than 550. In a rehearsal they are longer.
slower=1
[ ${#rehearse[@]} -eq 0 ] || slower=10
failed=0

needed='import sys
from importlib.util import find_spec
names = "torch triton numba numpy pytest click rich matplotlib scipy".split()
sys.exit(", ".join(name for name in names if find_spec(name) is None) or 0)'
missing=$("$python" -c "$needed" 2>&1) || {
  echo "benchmarks/gpu.sh: error: $python does not have $missing" >&2
  echo 'help: name another, which has: PYTHON=python3.12 benchmarks/gpu.sh' >&2
  exit 1
}
gpu=$(timeout -k 5 $((25 * slower)) "$python" "$root/benchmarks/gpu_parts.py" "${rehearse[@]}") || exit $?
key=$(key | tr '\n' ' ')
out=${OUT:-$root/results/gpu}
mkdir -p "$out" && out=$(cd "$out" && pwd) && log=$out/gpu.log && touch "$log" || exit 1
exec 3>&1 > >(tee -a "$log") 2>&1 # what is shown is kept
keeper=$!
echo "== $(date) on $gpu"
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/${python##*/} ;; esac
cd "$root" || exit 1

do_part smoke 85 "$log" "$python" benchmarks/gpu_smoke.py --out "$out" "${rehearse[@]}"

tests=(tests)
if [ ${#rehearse[@]} -gt 0 ]; then
  tests=(tests/optim/test_on_a_gpu.py -p gpu_rehearsal)
elif "$python" -c 'import xdist' 2>/dev/null; then
  tests+=(-p xdist -n 8 --dist worksteal)
fi
do_part rung 190 "$out/rung.log" "$python" -m pytest -m gpu "${tests[@]}" -q -rfE --tb=short -W default \
  -p no:cacheprovider

do_part bench 205 "$out/bench.log" "$python" -m steprule.bench --scale gpu --seconds 190 --resume --no-progress \
  --out "$out" "${rehearse[@]}"

limited 15 "$python" benchmarks/gpu_table.py "$out" || failed=1
exec >&3 2>&3 3>&-
wait "$keeper"
exit "$failed"
