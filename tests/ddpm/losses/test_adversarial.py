"""The adversarial term: its training, its gradient for the generator, saving, resuming, several processes."""

import os
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from ddpm_parts import Steps, module
from monai.networks.nets import PatchDiscriminator
from torch.utils.data import DataLoader

from common.errors import UserError
from ddpm.losses.adversarial import AdversarialTerm
from ddpm.losses.latent_terms import GeneratorLosses
from ddpm.module import Losses

SHAPE = (4, 8, 8, 8)


def term(seed=0, shape=SHAPE, layers=1) -> AdversarialTerm:
    torch.manual_seed(seed)
    network = PatchDiscriminator(
        spatial_dims=3, channels=8, in_channels=shape[0], num_layers_d=layers, norm="INSTANCE"
    )
    return AdversarialTerm(network, partial(torch.optim.AdamW, lr=1e-2, betas=(0.5, 0.9)), shape)


def adversarial_module(start=0, **options):
    losses = GeneratorLosses({"adversarial": term()}, {"adversarial": 0.5})
    return module(losses=Losses("l2", losses, start), **options)


def fit(m, n=3, first=0, data=None, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=-1, max_steps=first + n, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(m, DataLoader(data or Steps(n, first), batch_size=1), weights_only=True, **options)
    return trainer


def weights(m) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in m.discriminator.discriminator.parameters()])


def test_it_learns_and_scores_each_sample():
    d = term()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(40):
        real = torch.randn(2, *SHAPE, generator=generator)
        fake = torch.nn.functional.avg_pool3d(torch.randn(2, *SHAPE, generator=generator), 3, 1, 1)  # blurred
        losses.append(float(d.learn(fake, real, torch.ones(2))))
    assert losses[-1] < 0.3 * losses[0]
    scores = -d(torch.stack([real[0], fake[0]]), real, None, None)
    assert scores.shape == (2,) and scores[0] > scores[1]


def test_a_sample_of_weight_zero_has_no_gradient():
    d = term()
    before = [p.clone() for p in d.discriminator.parameters()]
    d.learn(torch.randn(1, *SHAPE), torch.randn(1, *SHAPE), torch.zeros(1))
    after = d.discriminator.parameters()
    assert all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(after, before, strict=True))  # weight decay alone


def test_gradient_reaches_the_prediction_and_not_the_discriminator():
    d, predicted = term(), torch.randn(2, *SHAPE, requires_grad=True)
    d(predicted, None, None, None).sum().backward()
    assert predicted.grad.abs().amax(dim=(1, 2, 3, 4)).min() > 0
    assert all(p.grad is None and p.requires_grad for p in d.discriminator.parameters())


def test_training_changes_discriminator_and_denoiser():
    plain, other = module(), adversarial_module()
    other.load_state_dict(plain.state_dict())
    before = weights(other)
    fit(plain, 4), fit(other, 4)
    assert not torch.equal(weights(other), before)
    pairs = zip(plain.trained["denoiser"].parameters(), other.trained["denoiser"].parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert not any("discriminator" in name for name, _ in other.named_parameters())


def test_a_skipped_batch_does_not_reach_it():
    m, expected, learnt = adversarial_module(), adversarial_module(), []
    m.skipped.skip, learn = True, m.discriminator.learn
    m.discriminator.learn = lambda *batch: learnt.append(batch) or learn(*batch)
    broken = [Steps(3)[i] for i in range(3)]
    broken[1]["latent"] = torch.full(SHAPE, torch.nan)
    fit(m, data=broken), fit(expected, data=broken[:1])
    assert len(m.skipped) == 1 and len(learnt) == 2
    assert weights(m).isfinite().all() and not torch.equal(weights(m), weights(expected))


def test_it_starts_at_its_batch():
    plain, late = module(), adversarial_module(start=10)
    late.load_state_dict(plain.state_dict())
    before = weights(late)
    fit(plain, 3), fit(late, 3)
    assert torch.equal(weights(late), before)
    pairs = zip(plain.trained.parameters(), late.trained.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_discriminator_is_bit_equal(tmp_path):
    m, generator = adversarial_module(), torch.Generator().manual_seed(0)
    pairs = [[torch.randn(1, *SHAPE, generator=generator) for _ in range(2)] for _ in range(4)]
    for pair in pairs[:2]:
        m.discriminator.learn(*pair, torch.ones(1))
    pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").strategy.connect(m)
    checkpoint = {"state_dict": m.state_dict()}
    m.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "half.ckpt")
    again = adversarial_module()
    again.on_load_checkpoint(torch.load(tmp_path / "half.ckpt", weights_only=True))
    for pair in pairs[2:]:
        for module_ in (m, again):
            module_.discriminator.learn(*pair, torch.ones(1))
    assert torch.equal(weights(m), weights(again))


def test_a_checkpoint_without_it_is_refused(tmp_path):
    fit(module(), 2).save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(UserError, match="without the adversarial term.*model.init_from"):
        fit(adversarial_module(), 2, first=2, ckpt_path=tmp_path / "plain.ckpt")


def test_latents_that_are_too_small_are_named():
    with pytest.raises(
        ValueError, match=r"\[4, 2, 2, 2\] are too small for model.losses.adversarial.discriminator.*num_layers_d"
    ):
        term(shape=(4, 2, 2, 2), layers=3)


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    d = term(seed=rank)  # other weights in each process
    d.synchronise(torch.device("cpu"))
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        pair = (torch.randn(1, *SHAPE, generator=generator) for _ in range(2))
        d.learn(*pair, torch.ones(1))
    torch.save(d.state_dict(), os.path.join(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.nightly
def test_processes_with_other_data_keep_one_discriminator(tmp_path):
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True)["discriminator"] for rank in (0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    start = term(seed=0).state_dict()["discriminator"]
    assert any(not torch.equal(a[k], start[k]) for k in a)


def test_it_steps_once_for_each_step_of_the_generator():
    """Also with accumulated gradients, so that their balance stays."""
    for accumulate in (1, 3):
        m, steps = adversarial_module(), []
        learn = m.discriminator.learn
        m.discriminator.learn = lambda *batch, learn=learn, steps=steps: steps.append(1) or learn(*batch)
        trainer = pl.Trainer(
            max_steps=2, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
            accumulate_grad_batches=accumulate,
        )  # fmt: skip
        trainer.fit(m, DataLoader(Steps(2 * accumulate), batch_size=1))
        assert len(steps) == 2
