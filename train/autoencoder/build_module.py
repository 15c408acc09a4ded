"""Builds the VQ-GAN, its losses and its training module from the config."""

import logging
from functools import partial

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from common.errors import user_errors
from dataset.datamodule import CTDataModule
from ddpm.checkpoint.write import complete
from evaluation.metrics.voxel_error import psnr
from evaluation.protocol.leakage import seen_patients
from vq_gan_3d import VQGAN3D
from vq_gan_3d.adversarial import Discriminator
from vq_gan_3d.module import VQGANModule
from vq_gan_3d.optimisation import Optimisation
from vq_gan_3d.perceptual import SlicePerceptualLoss, make_perceptual

FITTED = 64  # volumes that suffice for the covariance of blocks

log = logging.getLogger(__name__)


def build_networks(model: DictConfig, size: tuple[int, int, int]) -> tuple[VQGAN3D, SlicePerceptualLoss | None]:
    """The autoencoder and the perceptual loss.

    Raises UserError for invalid values, or a `size` `(D, H, W)` of training volumes that does not fit.
    """
    with user_errors():
        network = instantiate(model.network)
        network.check_size(size)
        return network, make_perceptual(**model.losses.perceptual)


def build_module(
    model: DictConfig, network: VQGAN3D, perceptual: SlicePerceptualLoss | None, data: CTDataModule
) -> VQGANModule:
    """The module that trains `network` on prepared data and writes their protocol into its checkpoints."""
    adversarial, options = None, model.losses.adversarial
    if options.weight > 0 and options.start < model.train_num_steps:  # a run that is extended gets it then
        adversarial = Discriminator(
            instantiate(options.discriminator),
            instantiate(options.optimizer),
            first_batch=options.start,
            weight=options.weight,
        )
    optimizer = instantiate(model.optimizer)
    protocol = {**data.protocol(), "seen": seen_patients(data.source.rows, data.protocol())}
    return VQGANModule(
        network,
        Optimisation(optimizer, model.train_num_steps, model.warmup_steps, skip_nonfinite=model.skip_nonfinite),
        commitment_weight=model.commitment_weight,
        adversarial=adversarial,
        perceptual=perceptual,
        gradient_clip=model.gradient_clip,
        metrics={"psnr": partial(psnr, data_range=2.0)},
        header=complete({"protocol": protocol}),
        seed=model.seed,
    )


def without_codes(network: VQGAN3D, volume: Tensor) -> Tensor:
    """The forward pass without quantisation, for the memory estimate."""
    return network.decode(network.encode(volume), quantise=False)


def fit_components(network: VQGAN3D, data: CTDataModule) -> None:
    """Fits the principal components of the network's blocks to up to `FITTED` training volumes."""
    if network.pca is None:
        return
    chosen = torch.linspace(0, len(data.train) - 1, min(FITTED, len(data.train))).round().int().tolist()
    cases = (data.train.case(i) for i in chosen)
    with user_errors():
        network.pca.fit((data.window.normalise(case["ct"].float())[None], case["scanned"][None]) for case in cases)


def accuracy(module: VQGANModule) -> str:
    """PSNR in dB of the last validation over all its cases: of the principal components alone, of the autoencoder with
    continuous latents and, with a codebook, with quantised ones. Empty without a validation.
    """
    return ", ".join(f"{name} {value:.2f} dB" for name, value in _measured(module).items())


def warn_below_components(module: VQGANModule) -> None:
    """Warns if the autoencoder with continuous latents ended below the principal components of as many latents."""
    found = {name: round(value, 2) for name, value in _measured(module).items()}
    if "PCA" in found and found["autoencoder"] < found["PCA"]:
        log.warning(
            "the training ended at %.2f dB, below the %.2f dB of its principal components alone, which have as many "
            "latents: train longer (model.train_num_steps), lower model.train_lr, or lower the weights of "
            "model.losses.adversarial and model.losses.perceptual",
            found["autoencoder"],
            found["PCA"],
        )


def _measured(module: VQGANModule) -> dict[str, float]:
    """The PSNR of the last validation by name, of those that it measured."""
    found, continuous = module.trainer.callback_metrics, "val/psnr_unquantised"
    shown = {"PCA": "val/psnr_pca", "autoencoder": "val/psnr"}
    if continuous in found:
        shown |= {"autoencoder": continuous, "quantised": "val/psnr"}
    return {name: float(found[key]) for name, key in shown.items() if key in found}
