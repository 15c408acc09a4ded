"""An export opens in another process, in another folder, where only the package xray2ct is importable."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ddpm_parts import module

from dataset.io.ct import read_volume
from evaluation.generation.public_pipeline import XrayToCTPipeline
from evaluation.sharing.exporter import export

ROOT = Path(__file__).resolve().parents[3]
FILM = ROOT / "assets" / "films" / "hannover_3b46de94.png"
DIFFUSERS = """
import sys
from diffusers import DiffusionPipeline
folder, film = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
volumes = pipe(film, seed=3).volumes
import numpy, xray2ct
numpy.save("diffusers.npy", volumes.numpy())
numpy.save("xray2ct.npy", xray2ct.from_pretrained(folder)(film, seed=3).volumes.numpy())
assert not {"ddpm", "evaluation", "common"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = module().pipeline().set_sampler("DDIMScheduler", 2)
    made.register_to_config(protocol={**made.protocol, "xray_size": [64, 64]})
    return made


@pytest.fixture(scope="module")
def expected(pipeline):
    return XrayToCTPipeline.of(pipeline)(str(FILM), seed=3).volumes.numpy()


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of a user, beside a folder that holds `xray2ct` alone, as site-packages do."""
    for name in ("site", "user"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "xray2ct").symlink_to(ROOT / "xray2ct")
    return tmp_path / "user"


def python(folder: Path, *arguments) -> None:
    own = {"PYTHONPATH": str(folder.parent / "site"), "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_diffusers_and_the_package_open_a_folder(pipeline, expected, elsewhere):
    folder = export(pipeline, elsewhere / "model", "diffusers")
    python(elsewhere, "-c", DIFFUSERS, folder, FILM)
    assert np.array_equal(np.load(elsewhere / "xray2ct.npy"), expected)
    found = np.load(elsewhere / "diffusers.npy")  # diffusers drops the channels-last layout: another rounding
    np.testing.assert_allclose(found, expected, atol=20.0)  # HU of a range of 2000, in bfloat16


@pytest.mark.slow
def test_the_command_of_monai_runs_a_bundle(pipeline, expected, elsewhere):
    pytest.importorskip("fire", reason="the command line of monai.bundle needs fire")
    folder = export(pipeline, elsewhere / "bundle", "monai")
    command = ["--config_file", folder / "configs" / "inference.json", "--bundle_root", folder]
    python(elsewhere, "-m", "monai.bundle", "run", *command, "--xray", FILM, "--output_dir", "out", "--seed", 3)
    (written,) = (elsewhere / "out").glob("*_synthetic_ct.nii.gz")
    np.testing.assert_allclose(np.asarray(read_volume(written).hu), expected[0], atol=20.0)
