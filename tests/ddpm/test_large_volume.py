"""Memory limit of the generation of a volume of 512×512×128."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_MB = 1400  # beyond the libraries: 740 to 1,220 by processor and version of torch; docs/results/
MEASURE = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from ddpm.conditioning.lift import make_lift
from ddpm.latent import VQGANLatents
from ddpm.diffusion.objective import NoiseObjective
from ddpm.pipeline import XrayToCTPipeline
from ddpm.denoiser.unet import UNet3D
from ddpm.xray_encoder import CNNXrayEncoder
from train.run.process_memory import peak_bytes

size = (128, 512, 512)
protocol = {{"window": [-1000, 1000], "volume_size": list(size), "extent": [320.0, 350.0, 350.0], "dataset": "none"}}
xrays = CNNXrayEncoder()
denoiser = UNet3D(8, 32, (1, 2, 4), condition={{"embedding_dim": xrays.embedding_dim}})
encoder = VQGANLatents({{"n_hiddens": 32}}, *(int(word) for word in sys.argv[1:]))
scheduler = NoiseObjective(prediction="sample").scheduler()
lift = make_lift(xrays, 16, 16)
pipeline = XrayToCTPipeline(denoiser, xrays, lift, encoder, scheduler, None, None, None, None, protocol=protocol)
before = peak_bytes()
volume = pipeline(torch.rand(1, 1, 1, 256, 256), num_inference_steps=1, allow_any_picture=True).volumes[0, 0]
print(json.dumps([(peak_bytes() - before) / 2**20, list(volume.shape), bool(volume.isfinite().all())]))
"""


def megabytes(*tile: str) -> float:
    command = [sys.executable, "-c", MEASURE, *tile]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-1500:]
    peak, shape, finite = json.loads(done.stdout.splitlines()[-1])
    assert shape == [128, 512, 512] and finite
    return peak


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_tiles_bound_the_memory_of_a_large_volume():
    tiles, whole = megabytes(), megabytes("1000")
    print(f"{tiles:.0f} MB in tiles, {whole:.0f} MB at once")
    assert tiles < LIMIT_MB and tiles < whole / 2
