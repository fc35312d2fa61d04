#!/usr/bin/env bash
# Run the GPU tests and the GPU benchmark in at most ten minutes, on a machine without a network.
#
#     bench/gpu.sh                                        # tables into $OUT, or bench/results
#     DEVICE=cpu LIMIT=120 MODELS=tiny bench/gpu.sh       # a rehearsal on a CPU
#
# Missing packages are installed from wheels in .whl/ (which git ignores). The machine must have torch, transformers,
# accelerate, peft and pytest. To fill the folder on a machine with a network, for Python 3.12:
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d .whl \
#         trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 liger-kernel
#
# Variables: DEVICE (cuda), LIMIT (total seconds, 570), MODELS, REPEATS (3), PYTHON (python3), OUT. Arguments are passed
# on to bench/train.py.
set -uo pipefail
cd "$(dirname "$0")/.."
start=$(date +%s)
device=${DEVICE:-cuda} limit=${LIMIT:-570} python=${PYTHON:-python3} out=${OUT:-bench/results}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if compgen -G '.whl/*.whl' >/dev/null; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl || exit
    PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
fi

status=0
if [[ -d tests/gpu ]]; then
    # Warnings are errors in the pinned environment, but not with the versions of this machine.
    timeout "$((limit / 4))" "$python" -m pytest -q -W default -p no:cacheprovider tests/gpu 2>&1 | tee "$out/gpu-tests.txt" || status=1
fi

remaining=$((limit - ($(date +%s) - start) - 5))
"$python" bench/train.py --device "$device" --repeats "${REPEATS:-3}" --limit "$remaining" --seconds 120 \
    ${MODELS:+--models "$MODELS"} -o "$out/train-$device-$(date -u +%F).md" "$@" || status=1
exit "$status"
