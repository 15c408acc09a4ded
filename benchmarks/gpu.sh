#!/usr/bin/env bash
# All that the notes on speed and fidelity leave to a GPU, in one call: bash benchmarks/gpu.sh [rendered X-rays of 128³]
# Goes on after a failure, ends with 1 then. Not run yet. The trainings of fidelity resume.
set -u
XRAYS=${1:-}
case $XRAYS in "" | /*) ;; *) XRAYS=$PWD/$XRAYS ;; esac # before the folder changes
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}
XRAYS=${XRAYS:-outputs/fidelity/xrays_128.safetensors}
mkdir -p outputs "$(dirname "$XRAYS")" || exit 1
failed=0

"$PYTHON" -m pytest -q -s -m slow tests/train/run/test_peak_memory.py -k gpu || failed=1 # announced and measured memory
"$PYTHON" benchmarks/speed/run.py --gpu --json benchmarks/speed/gpu.json --markdown outputs/speed_gpu.md || failed=1
"$PYTHON" benchmarks/speed/scaling.py --gpu --output outputs/grow_gpu || failed=1

# Rendering needs nanodrr: where the file was made elsewhere, it is only read.
[ -f "$XRAYS" ] || "$PYTHON" benchmarks/fidelity/render_xrays.py 128 "$XRAYS" || exit 1
for method in model regression ancestor; do
    "$PYTHON" benchmarks/fidelity/run.py --size 128 --methods "$method" --minutes 4 --xrays "$XRAYS" || failed=1
done

# The weights that come with the repository, should they be better than those that do: docs/demo_weights.md
MODEL=outputs/fidelity/128/model_0
CHECKPOINT=$("$PYTHON" -c "import json, sys; print(json.load(open(sys.argv[1]))['checkpoint'])" "$MODEL/trained.json") &&
    "$PYTHON" evaluation/export.py checkpoint="$CHECKPOINT" metrics="$MODEL/evaluation/metrics.json" \
        output=outputs/phantom_128 format=safetensors precision=bfloat16 || failed=1
exit $failed
