"""The fast path (bfloat16, channels-last, fused attention and optimizer) against a plain float32 one.

The reference attends by a softmax over all products, holds its weights contiguously and steps with an unfused AdamW.
"""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from ddpm_parts import item, module
from torch.utils.data import DataLoader
from unet_parts import inputs, small

import ddpm.denoiser.blocks
from ddpm.denoiser.blocks import attend
from ddpm.diffusion.objective import NoiseObjective
from vq_gan_3d import VQGAN3D
from vq_gan_3d.module import VQGANModule
from vq_gan_3d.optimisation import Optimisation

STEPS, WINDOW = 200, 20
CASES = 6
FACTORISED = {"full_conv": False, "depth_attention": True}
plain_adamw = partial(torch.optim.AdamW, lr=2e-3, fused=False, foreach=False)
fused_adamw = partial(torch.optim.AdamW, lr=2e-3, fused=True)


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ v.float()


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact).norm().detach() / exact.norm().detach())


def test_fused_attention_is_the_softmax_over_all_products():
    q, k, v = torch.randn(3, 5, 2, 33, 16, generator=torch.Generator().manual_seed(0)).unbind()
    exact = plain_attention(q.double(), k.double(), v.double())
    assert relative(attend(q, k, v), exact) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):  # stays in float32 on a CPU
        assert relative(attend(q, k, v), exact) < 1e-6


@pytest.mark.parametrize("options", [{}, FACTORISED], ids=["full", "factorised"])
def test_output_and_gradient_of_the_fast_denoiser_are_near_the_plain_one(options, monkeypatch):
    """Relative error of bfloat16: 2⁻⁹ an operation, below 1.5 % of the output and 2.5 % of the gradient in all."""
    fast, plain = small(dim=32, **options), small(dim=32, **options)
    plain.load_state_dict(fast.state_dict())
    plain.to(memory_format=torch.contiguous_format)
    x, target = inputs(), torch.randn(2, 4, 6, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(**x)
    (found.float() - target).square().mean().backward()
    monkeypatch.setattr(ddpm.denoiser.blocks, "attend", plain_attention)
    exact = plain(**x)
    (exact - target).square().mean().backward()
    assert relative(found, exact) < 0.015
    gradients = [
        torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]) for net in (fast, plain)
    ]
    assert relative(*gradients) < 0.025


def autoencoder_pass(fast: bool, codes: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Volume, gradient and codes of one training pass; the codes that are taken may be given."""
    torch.manual_seed(0)
    network = VQGAN3D(n_codes=64, embedding_dim=4, n_hiddens=16, n_res_blocks=1).train()
    for p in network.parameters():  # blocks start as identities, which hides their inside
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.05)
    if codes is not None:
        network.codebook.nearest = lambda flat: codes.flatten()
    low, target = torch.randn(2, 1, 4, 4, 4), torch.randn(2, 1, 24, 24, 24)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        out = network(torch.tanh(F.interpolate(low, size=24, mode="trilinear")))
    ((out.volume.float() - target).square().mean() + 0.25 * out.commitment).backward()
    return out.volume, torch.cat([p.grad.flatten() for p in network.parameters()]), out.indices


def test_output_and_gradient_of_the_fast_autoencoder_are_near_the_plain_one():
    """Relative error below 2.5 % for both where both take the same codes.

    bfloat16 alone assigns another code to few vectors, those between two codes.
    """
    volume, gradient, codes = autoencoder_pass(fast=False)
    found = autoencoder_pass(fast=True, codes=codes)
    assert relative(found[0].detach(), volume.detach()) < 0.025
    assert relative(found[1], gradient) < 0.025
    assert (autoencoder_pass(fast=True)[2] != codes).float().mean() < 0.05


def smooth(curve: list[float]) -> torch.Tensor:
    return torch.tensor(curve).unfold(0, WINDOW, WINDOW).mean(dim=1)


def assert_curves_agree(fast: list[float], plain: list[float], other: list[float]) -> None:
    """The two paths differ by less than half of the difference that another seed makes."""
    assert len(fast) == len(plain) == STEPS
    fast, plain, other = smooth(fast), smooth(plain), smooth(other)
    assert plain[-1] < 0.9 * plain[0]  # it learns
    apart, noise = (fast - plain).square().mean().sqrt(), (other - plain).square().mean().sqrt()
    print(f"apart {apart:.5f}, another start {noise:.5f}, loss {plain[0]:.4f} to {plain[-1]:.4f}")
    assert apart < 0.5 * noise


class Cases:
    """Few cases, again and again."""

    def __len__(self):
        return 2 * STEPS

    def __getitem__(self, i):
        return item(i % CASES, step=i // 2)


class Losses(pl.Callback):
    def __init__(self, name: str):
        self.name, self.seen = name, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append(float(trainer.callback_metrics[self.name]))


def curve(module: pl.LightningModule, loader: DataLoader, fast: bool, name: str, start: int) -> list[float]:
    generator = torch.Generator().manual_seed(start)
    for p in module.parameters():
        if start and p.ndim > 1 and p.any():  # another random start of the same size
            p.data = p.flatten()[torch.randperm(p.numel(), generator=generator)].reshape(p.shape)
    if not fast:
        module.to(memory_format=torch.contiguous_format)
    losses = Losses(name)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", precision="bf16-mixed" if fast else "32-true", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[losses],
    )  # fmt: skip
    trainer.fit(module, loader)
    return losses.seen


def denoiser_curve(fast: bool, start: int = 0) -> list[float]:
    objective = NoiseObjective(prediction="sample", timestep_power=2.0)
    made = module(STEPS, objective=objective, optimizer=fused_adamw if fast else plain_adamw)
    return curve(made, DataLoader(Cases(), batch_size=2), fast, "train/loss", start)


def autoencoder_curve(fast: bool, start: int = 0) -> list[float]:
    torch.manual_seed(0)
    network = VQGAN3D(n_codes=64, embedding_dim=4, n_hiddens=8, n_res_blocks=1)
    made = VQGANModule(network, Optimisation(fused_adamw if fast else plain_adamw, STEPS, warmup_steps=1))
    low = torch.randn(CASES, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    volumes = torch.tanh(F.interpolate(low, size=16, mode="trilinear"))
    items = [{"ct": volumes[i % CASES], "index": i % CASES, "step": i} for i in range(STEPS)]
    return curve(made, DataLoader(items, batch_size=1), fast, "loss", start)


@pytest.mark.nightly
@pytest.mark.parametrize("trained", [denoiser_curve, autoencoder_curve])
def test_the_curves_of_two_hundred_steps_agree(trained, monkeypatch):
    fast = trained(True)
    monkeypatch.setattr(ddpm.denoiser.blocks, "attend", plain_attention)
    assert_curves_agree(fast, trained(False), trained(False, start=1))
