"""Builds the VQ-GAN, its losses and its training module from the config."""

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
    if options.weight > 0 and options.start < model.max_steps:
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
        Optimisation(optimizer, model.max_steps, model.warmup_steps, skip_nonfinite=model.skip_nonfinite),
        commitment_weight=model.commitment_weight,
        adversarial=adversarial,
        perceptual=perceptual,
        gradient_clip=model.gradient_clip,
        metrics={"psnr": lambda a, b: psnr(a, b, data_range=2.0)},
        header=complete({"protocol": protocol}),
        seed=model.seed,
    )


def without_codes(network: VQGAN3D, volume: Tensor) -> Tensor:
    """The forward pass without quantisation, for the memory estimate."""
    return network.decode(network.encode(volume), quantise=False)
