#!/usr/bin/env bash
# All measurements that need a GPU, in one call: bash benchmarks/gpu.sh [rendered X-rays of 128³]
# Continues after a failure and exits with 1. Not run yet. Trainings of the fidelity benchmark resume.
set -u
XRAYS=${1:-}
case $XRAYS in "" | /*) ;; *) XRAYS=$PWD/$XRAYS ;; esac # before cd
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}
XRAYS=${XRAYS:-outputs/fidelity/xrays_128.safetensors}
mkdir -p outputs "$(dirname "$XRAYS")" || exit 1
failed=0

"$PYTHON" -m pytest -q -s -m nightly tests/train/run/test_peak_memory.py -k gpu || failed=1 # announced and measured memory
"$PYTHON" benchmarks/speed/run.py --gpu --json benchmarks/speed/gpu.json --markdown outputs/speed_gpu.md || failed=1
"$PYTHON" benchmarks/speed/scaling.py --gpu --output outputs/scaling_gpu || failed=1

# Rendering needs nanodrr; an existing file is reused.
[ -f "$XRAYS" ] || "$PYTHON" benchmarks/fidelity/render_xrays.py 128 "$XRAYS" || exit 1
for method in model regression xray2ctpa; do
    "$PYTHON" benchmarks/fidelity/run.py --size 128 --methods "$method" --minutes 4 --xrays "$XRAYS" || failed=1
done

# Candidate for the demo's weights: docs/demo_weights.md
MODEL=outputs/fidelity/128/model_0
CHECKPOINT=$("$PYTHON" -c "import json, sys; print(json.load(open(sys.argv[1]))['checkpoint'])" "$MODEL/trained.json") &&
    "$PYTHON" evaluation/export.py checkpoint="$CHECKPOINT" metrics="$MODEL/evaluation/metrics.json" \
        output=outputs/phantom_128 overwrite=true format=safetensors precision=bfloat16 || failed=1
exit $failed
