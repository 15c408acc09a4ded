"""Pretrained encoders are frozen by default; their checkpoints and feature caches."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from ddpm_parts import PROTOCOL, item, latent_encoder
from encoder_files import CLASSES, save_network
from torch.utils.data import DataLoader, default_collate

from ddpm.checkpoint.load import load_pipeline
from ddpm.conditioning.lift import make_lift
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.objective import NoiseObjective
from ddpm.module import DDPMModule, GeneratorParts
from ddpm.xray_encoder import CNNXrayEncoder
from ddpm.xray_encoder.feature_cache import EncodedDataset
from vq_gan_3d.optimisation import Optimisation

KINDS = ("rad_dino", "torchxrayvision")  # one of each build: norms of a transformer, statistics of batches


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {kind: save_network(kind, folder / kind) for kind in KINDS}


def module_of(encoder, **options) -> DDPMModule:
    torch.manual_seed(0)
    denoiser = UNet3D(
        4,
        dim=8,
        dim_mults=(1, 2),
        condition={"channels": 4, "embedding_dim": encoder.embedding_dim},
        blocks=1,
        head_dim=8,
    )
    optimisation = Optimisation(partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1), 3, warmup_steps=1)
    parts = GeneratorParts(denoiser, encoder, make_lift(encoder, 4, 2), latent_encoder())
    return DDPMModule(parts, NoiseObjective(), optimisation, dict(PROTOCOL), **options)


class Spy(pl.Callback):
    """What mode the encoder is in while it trains."""

    def __init__(self):
        self.modes = set()

    def on_train_batch_start(self, trainer, module, *arguments):
        self.modes |= {part.training for part in module.trained["xray_encoder"].modules()}


def fit(module, items=None, steps: int = 3) -> tuple[pl.Trainer, Spy]:
    spy = Spy()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[spy], val_check_interval=1,
    )  # fmt: skip
    items = [item(i, step=i) for i in range(steps)] if items is None else items
    trainer.fit(module.train(), DataLoader(items, batch_size=1), DataLoader([items[0]], batch_size=1))
    return trainer, spy


def state(module) -> dict:
    return {name: value.clone() for name, value in module.trained["xray_encoder"].state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_encoder_is_frozen_by_default(kind, weights):
    module = module_of(CLASSES[kind].from_weights(weights[kind]))
    before = state(module)
    trainer, spy = fit(module)
    assert all(torch.equal(value, before[name]) for name, value in state(module).items())
    assert spy.modes == {False}
    own = {id(p) for p in module.trained["xray_encoder"].parameters()}
    assert not own & {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    others = sum(p.numel() for name in ("denoiser", "lift") for p in module.trained[name].parameters())
    assert sum(p.numel() for p in module.ema.shadow) == others


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuned_by_config(kind, weights):
    module = module_of(CLASSES[kind].from_weights(weights[kind]), freeze_xray_encoder=False)
    before = state(module)
    fit(module)
    moved = {name for name, value in state(module).items() if not torch.equal(value, before[name])}
    assert {name for name, _ in module.trained["xray_encoder"].named_parameters()} >= moved  # and no statistic
    assert len(moved) > 0.8 * len(list(module.trained["xray_encoder"].parameters()))


def test_the_cnn_trains_by_default():
    assert module_of(CNNXrayEncoder(width=8, blocks=1, embedding_dim=16)).freeze_xray_encoder is False


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_needs_no_other_file(kind, tmp_path):
    module = module_of(CLASSES[kind].from_weights(save_network(kind, tmp_path / kind)))
    trainer, _ = fit(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not any(name.startswith("xray_encoder") for name in content["ema"])
    with module.ema.swapped_in(module.device):
        expected = module.pipeline().set_sampler("DDIMScheduler", 2)(item(0)["xray"][None]).volumes
    shutil.rmtree(Path(tmp_path) / kind)
    pipeline = load_pipeline(tmp_path / "last.ckpt").set_sampler("DDIMScheduler", 2)
    assert torch.equal(pipeline(item(0)["xray"][None]).volumes, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_features_give_the_loss_of_fresh_ones_and_spare_the_encoder(kind, weights):
    encoder = CLASSES[kind].from_weights(weights[kind])
    module, seen = module_of(encoder), []
    forward = encoder.encode_image
    encoder.encode_image = lambda image: seen.append(len(image)) or forward(image)
    items = [item(i, step=i) for i in range(3)]
    cached = EncodedDataset(items, encoder, torch.device("cpu"))
    assert len(seen) == 3 and cached.bytes > 0
    arguments = torch.randn(2, 4, 8, 8, 8), torch.tensor([10, 500]), torch.ones(2)
    torch.nn.init.normal_(module.trained["denoiser"].out.weight)
    torch.nn.init.normal_(module.trained["lift"].spread.weight, std=0.1)
    with torch.no_grad():
        fresh, kept = (
            module.predict(arguments[0], arguments[1], default_collate([data[0], data[2]]), arguments[2])
            for data in (items, cached)
        )
        other = module.predict(arguments[0], arguments[1], default_collate([items[1], items[1]]), arguments[2])
    assert len(seen) == 5
    assert (fresh - kept).abs().max() < 0.05 * (fresh - other).abs().max()
    fit(module, cached)
    assert len(seen) == 5


def test_features_beyond_float16_are_refused():
    encoder = CNNXrayEncoder(width=8, blocks=1, embedding_dim=16)
    torch.nn.init.constant_(encoder.to_maps.bias, 1e6)
    with pytest.raises(ValueError, match="model.memory.cache_xray=false"):
        EncodedDataset([item(0)], encoder, torch.device("cpu"))
