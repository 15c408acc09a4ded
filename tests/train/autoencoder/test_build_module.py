"""The training module of the VQ-GAN from the config."""

from types import SimpleNamespace

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from common.files import ROOT
from train.autoencoder.build_module import build_module, build_networks

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
