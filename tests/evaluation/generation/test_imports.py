"""What a generation does not need is not imported: its start is what a user waits for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
from evaluation.generation.open_pipeline import open_generator
from evaluation.generation.public_pipeline import XrayToCTPipeline
from evaluation.visualization.slices import SYNTHETIC
from dataset.imaging.lung_network import shipped_network
shipped_network()
print(*sys.modules)
"""
LEFT_OUT = {"pytorch_lightning", "monai", "wandb", "tensorboard", "sklearn", "skimage", "pandas", "matplotlib.pyplot",
            "SimpleITK", "nanodrr", "open_clip", "torchxrayvision", "gradio", "torchmetrics"}  # fmt: skip


@pytest.mark.slow
def test_a_generation_imports_no_training_and_no_statistics():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not LEFT_OUT & set(done.stdout.split())
