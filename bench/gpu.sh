#!/usr/bin/env bash
# The GPU tests and the GPU benchmark in one command of at most ten minutes, on a machine without a network.
#
#     bench/gpu.sh                                        # tables into $OUT, or bench/results
#     DEVICE=cpu LIMIT=120 MODELS=tiny bench/gpu.sh       # the same way through, on a CPU
#
# What the machine lacks travels as wheels in .whl/ (which git ignores). It has torch, transformers, accelerate, peft
# and pytest; to fill the folder where there is a network, for Python 3.12:
#
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d .whl \
#         trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 liger-kernel
#
# Variables: DEVICE (cuda), LIMIT (seconds for everything, 570), MODELS, REPEATS (3), PYTHON (python3), OUT, and more
# arguments for bench/train.py on the command line.
set -uo pipefail
cd "$(dirname "$0")/.."
began=$(date +%s)
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
    # Warnings are errors in our own environment; here the versions are other people's.
    timeout "$((limit / 4))" "$python" -m pytest -q -W default -p no:cacheprovider tests/gpu 2>&1 | tee "$out/gpu-tests.txt" || status=1
fi

left=$((limit - ($(date +%s) - began) - 5))
"$python" bench/train.py --device "$device" --repeats "${REPEATS:-3}" --limit "$left" --seconds 120 \
    ${MODELS:+--models "$MODELS"} -o "$out/train-$device-$(date -u +%F).md" "$@" || status=1
exit "$status"
