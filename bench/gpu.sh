#!/usr/bin/env bash
# Run the GPU benchmark and the GPU tests on a machine without a network, in two calls of a few minutes each.
#
#     bench/gpu.sh first                        # 240 s: this trainer alone, then the tests: what crashes?
#     bench/gpu.sh second                       # 470 s: this trainer and TRL by turns: the table
#     DEVICE=cpu LIMIT=120 MODELS=tiny bench/gpu.sh second        # a rehearsal on a CPU
#
# Both print first, within seconds, whether the machine multiplies and attends as it should (bench/gpu_checks.py). Results
# go to $OUT, or bench/results; the table is rewritten after each cell, so that it survives a kill. Compiled kernels go to
# $OUT/compiled.tar; a later call with CACHE=compiled.tar reuses them, if the versions are the same.
#
# Missing packages are installed from wheels in .whl/, which git ignores: name that folder if files are copied to the
# machine by git's list. The machine must have torch, transformers, accelerate, peft and pytest. To fill the folder on a
# machine with a network, for Python 3.12:
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d .whl \
#         trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 liger-kernel
#
# Variables: DEVICE (cuda), LIMIT (total seconds), MODELS, REPEATS, PYTHON (python3), OUT, CACHE. Further arguments are
# passed on to bench/train.py.
set -uo pipefail
cd "$(dirname "$0")/.."
start=$(date +%s)
call=${1:?first or second: see the head of this file}
shift
case $call in
    first) limit=${LIMIT:-240} repeats=${REPEATS:-1} only='ours 512 default' ;;
    second) limit=${LIMIT:-470} repeats=${REPEATS:-3} only='' ;;
    *) echo "bench/gpu.sh: $call is neither first nor second" >&2; exit 2 ;;
esac
device=${DEVICE:-cuda} python=${PYTHON:-python3} out=${OUT:-bench/results}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# Cells of the same model share what was compiled, and freed memory stays usable for blocks of another size.
kernels=$(mktemp -d)
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
export TORCHINDUCTOR_CACHE_DIR=$kernels/inductor TRITON_CACHE_DIR=$kernels/triton
[[ -n ${CACHE:-} ]] && tar -xf "$CACHE" -C "$kernels"

if compgen -G '.whl/*.whl' >/dev/null; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl || exit
    PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
fi

remaining() { echo $((limit - ($(date +%s) - start) - ${1:-0})); }

status=0
timeout 40 "$python" bench/gpu_checks.py --device "$device" 2>&1 | tee "$out/gpu-checks-$call.txt" || status=1

# The table comes before the tests: they say nothing about speed. In the first call a part of the time is theirs.
reserved=5
[[ $call == first && -d tests/gpu ]] && reserved=$((limit / 3))
"$python" bench/train.py --device "$device" --repeats "$repeats" --limit "$(remaining $reserved)" --seconds 60 \
    ${only:+--only "$only"} ${MODELS:+--models "$MODELS"} -o "$out/train-$device-$call-$(date -u +%F).md" "$@" || status=1

if [[ $call == first && -d tests/gpu ]]; then
    # Warnings are errors in the pinned environment, but not with the versions of this machine.
    parallel=()
    "$python" -c 'import xdist' 2>/dev/null && parallel=(-n 6)
    timeout "$(remaining 5)" "$python" -m pytest -q -rA --tb=line -W default -p no:cacheprovider "${parallel[@]}" tests/gpu \
        2>&1 | tee "$out/gpu-tests.txt" || status=1
fi

tar -cf "$out/compiled.tar" -C "$kernels" . && rm -rf "$kernels"
exit "$status"
