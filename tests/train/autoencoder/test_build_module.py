"""The training module of the VQ-GAN from the config."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from common.files import ROOT
from train.autoencoder.build_module import accuracy, build_module, build_networks, warn_below_components

SMALL = ["dataset=phantom", "dataset.volume_size=[16,16,16]", "model.n_hiddens=8", "model.n_res_blocks=1",
         "model.losses.adversarial.discriminator.channels=4"]  # fmt: skip


@pytest.mark.parametrize(("weight", "steps", "built"), [(0.05, 101, True), (0.05, 100, False), (0.0, 101, False)])
def test_the_discriminator_is_built_if_it_takes_part_in_the_run(weight, steps, built):
    """DDP refuses weights that no batch uses."""
    words = [*SMALL, f"model.losses.adversarial.weight={weight}", "model.losses.adversarial.start=100"]
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        model = compose("train_vqgan", [*words, f"model.train_num_steps={steps}"]).model
    rows = pd.DataFrame({"patient": ["a"], "split": ["train"], "id": ["a"]})
    data = SimpleNamespace(protocol=dict, source=SimpleNamespace(rows=rows))
    module = build_module(model, *build_networks(model, (16, 16, 16)), data)
    assert (module.discriminator is not None) is built


def after(**psnr: float) -> SimpleNamespace:
    """A module after a training whose last validation measured these PSNR in dB."""
    metrics = {f"val/{name}": torch.tensor(value) for name, value in psnr.items()}
    return SimpleNamespace(trainer=SimpleNamespace(callback_metrics=metrics))


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        ({"psnr_pca": 28.4, "psnr": 31.2}, "PCA 28.40 dB, autoencoder 31.20 dB"),
        (
            {"psnr_pca": 28.4, "psnr_unquantised": 30.1, "psnr": 26.6},
            "PCA 28.40 dB, autoencoder 30.10 dB, quantised 26.60 dB",
        ),
        ({"psnr_unquantised": 30.1, "psnr": 26.6}, "autoencoder 30.10 dB, quantised 26.60 dB"),
        ({"psnr": 31.2}, "autoencoder 31.20 dB"),
        ({}, ""),
    ],
)
def test_the_line_of_a_training_shows_the_autoencoder_with_and_without_codes(measured, line):
    assert accuracy(after(**measured)) == line


@pytest.mark.parametrize(
    ("measured", "below"),
    [
        ({"psnr_pca": 28.4, "psnr": 28.39}, True),
        ({"psnr_pca": 28.4, "psnr": 28.4 - 1e-4}, False),  # a network that is still 0, in floating point
        ({"psnr_pca": 28.4, "psnr": 31.2}, False),
        ({"psnr_pca": 28.4, "psnr_unquantised": 28.0, "psnr": 26.6}, True),
        ({"psnr_pca": 28.4, "psnr_unquantised": 30.1, "psnr": 26.6}, False),  # that the codes lose
        ({"psnr": 20.0}, False),
        ({}, False),
    ],
)
def test_a_training_that_ends_below_its_components_warns_in_one_line(measured, below, caplog):
    warn_below_components(after(**measured))
    assert len(caplog.records) == below
    for record in caplog.records:
        line = record.getMessage()
        assert record.levelname == "WARNING" and "\n" not in line
        assert f"{measured.get('psnr_unquantised', measured['psnr']):.2f} dB" in line and "28.40 dB" in line
        assert "model.train_num_steps" in line and "model.train_lr" in line
