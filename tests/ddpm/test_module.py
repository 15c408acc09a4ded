"""Training of the denoiser: trained and frozen parts, repeatability, averages, checkpoints."""

from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from ddpm_parts import Steps, item, module
from torch.utils.data import DataLoader, default_collate

from ddpm.checkpoint.load import load_pipeline
from ddpm.diffusion.objective import NoiseObjective
from ddpm.losses.latent_terms import GeneratorLosses
from ddpm.module import Losses
from train.run.checkpoint_io import AtomicCheckpointIO


def fit(m, n: int = 3, folder=None, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, plugins=[AtomicCheckpointIO()], **options,
    )  # fmt: skip
    trainer.fit(m, DataLoader(Steps(n), batch_size=1), DataLoader(Steps(2), batch_size=2))
    return trainer


def state(m) -> dict:
    return {k: v.clone() for k, v in m.trained.state_dict().items()}


def test_training_changes_all_parts_but_the_latent_encoder():
    m = module()
    before, frozen = state(m), {k: v.clone() for k, v in m.latent_encoder.state_dict().items()}
    fit(m, 4)
    parts = {k.split(".")[0] for k, v in m.trained.state_dict().items() if not torch.equal(v, before[k])}
    assert parts == {"denoiser", "xray_encoder", "lift"}
    assert all(torch.equal(v, frozen[k]) for k, v in m.latent_encoder.state_dict().items())
    assert not any("latent_encoder" in name for name, _ in m.named_parameters())


def test_a_frozen_xray_encoder_stays_and_is_in_no_optimizer():
    m = module(freeze_xray_encoder=True)
    before = state(m)
    trainer = fit(m, 3)
    inside = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert not inside & {id(p) for p in m.trained["xray_encoder"].parameters()}
    assert all(torch.equal(v, before[k]) for k, v in state(m).items() if k.startswith("xray_encoder"))


def test_noise_depends_on_step_and_position_alone():
    m = module()
    one, other = default_collate([item(0, 5), item(1, 5)]), default_collate([item(2, 5), item(2, 5)])
    (eps, t, keep), (eps2, t2, keep2) = m._draw(one), m._draw(other)
    assert torch.equal(eps, eps2) and torch.equal(t, t2) and torch.equal(keep, keep2)
    assert not torch.equal(eps[0], eps[1])  # a case that meets itself in a batch gets other noise
    assert not torch.equal(m._draw(default_collate([item(0, 6)]))[0][0], eps[0])


def test_condition_is_dropped_as_often_as_asked():
    m = module(condition_drop=0.3)
    keep = torch.cat([m._draw(default_collate([item(i % 3, step=i)]))[2] for i in range(400)])
    assert 0.22 < 1 - keep.mean() < 0.38


def test_validation_is_the_same_number_for_the_same_weights():
    m = module()
    trainer = fit(m, 2)
    first = trainer.callback_metrics["val/loss"].item()
    again = trainer.validate(m, DataLoader(Steps(2), batch_size=2), verbose=False)[0]["val/loss"]
    assert again == pytest.approx(first, rel=1e-6)


def test_a_regression_is_validated_at_its_one_timestep():
    m, seen = module(), []
    m.objective = replace(m.objective, timestep_power=float("inf"))
    m.losses = lambda batch, eps, timestep, keep: seen.append(timestep) or (torch.zeros(len(timestep)), {})
    m.log = lambda *arguments, **options: None
    m.validation_step(default_collate([item(0, step=0)]), 0)
    assert [int(t[0]) for t in seen] == [m.objective.timesteps - 1]


def test_average_follows_its_recursion():
    m = module(ema_decay=0.5)
    weights = []

    class Spy(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            weights.append(next(iter(module.trained.parameters())).detach().clone())

    fit(m, 4, callbacks=[Spy()])
    average = weights[0]
    for k, w in enumerate(weights[1:], 1):
        decay = min(0.5, 1 - (1 + k) ** -0.75)
        average = decay * average + (1 - decay) * w
    assert torch.allclose(m.ema.shadow[0], average, atol=1e-6)


def test_an_exception_in_validation_leaves_the_raw_weights():
    m = module()

    def explode(*args):
        raise RuntimeError("boom")

    m.validation_step = explode
    with pytest.raises(RuntimeError, match="boom"):
        fit(m, 2)
    raw = state(m)
    assert m.ema.in_use is False
    m.ema.swap_in(m.device)
    assert any(not torch.equal(v, raw[k]) for k, v in m.trained.state_dict().items())


def test_checkpoint_generates_with_the_averaged_weights(tmp_path):
    m = module()
    trainer = fit(m, 4)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    pipeline = load_pipeline(path)
    names = [n for n, p in m.trained.named_parameters() if p.requires_grad]
    for name, average in zip(names, m.ema.shadow, strict=True):
        part, _, key = name.partition(".")
        assert torch.equal(getattr(pipeline, part).state_dict()[key], average)
    with m.ema.swapped_in(m.device):
        expected = m.pipeline().set_sampler("DDIMScheduler", 2)(item(0)["xray"][None]).volumes
    assert torch.equal(pipeline.set_sampler("DDIMScheduler", 2)(item(0)["xray"][None]).volumes, expected)


def test_not_a_number_stops_with_the_cause():
    m = module(optimizer=partial(torch.optim.SGD, lr=float("inf")), objective=NoiseObjective())
    with pytest.raises(FloatingPointError, match="model.train_lr"):
        fit(m, 4)


def with_marks(n: int, end: int) -> list[dict]:
    """Items of which latent slices from `end` on were not scanned."""
    scanned = (torch.arange(8) < end)[None, :, None, None].expand(1, 8, 8, 8)
    return [{**item(i, step=i), "scanned": scanned} for i in range(n)]


def test_latents_that_were_not_scanned_have_no_gradient():
    mean = lambda predicted, clean, encoder, generator: predicted.mean(dim=(1, 2, 3, 4))  # noqa: E731
    m, kept = module(losses=Losses(terms=GeneratorLosses({"mean": mean}, {"mean": 1.0}))), []

    def keep(network, arguments, out):
        out.retain_grad()
        kept.append(out)

    m.trained["denoiser"].register_forward_hook(keep)
    batch = m.on_before_batch_transfer(default_collate(with_marks(2, end=5)), 0)
    m.log = m.log_dict = lambda *arguments, **options: None
    m.training_step(batch, 0).backward()
    gradient = kept[0].grad
    assert not gradient[:, :, 5:].any() and (gradient[:, :, :5] != 0).all()


def test_wholly_scanned_latents_have_the_loss_of_latents_without_marks():
    m, losses = module(), []
    for items in ([item(i, step=i) for i in range(2)], with_marks(2, end=8)):
        batch = m.on_before_batch_transfer(default_collate(items), 0)
        losses.append(m.losses(batch, *m._draw(batch))[0])
    assert torch.equal(*losses)
