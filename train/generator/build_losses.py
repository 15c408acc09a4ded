"""Builds the terms of `model.loss_type` from their config."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from common.errors import UserError
from dataset.imaging.hu_window import Window
from ddpm.checkpoint.load import load_classifier
from ddpm.losses.adversarial import AdversarialTerm
from ddpm.losses.classification import ClassificationTerm
from ddpm.losses.latent_terms import GeneratorLosses
from ddpm.losses.loss_type import parse_loss_type
from ddpm.losses.perceptual import PerceptualTerm
from ddpm.losses.vgg import VGG16Features
from ddpm.module import Losses
from vq_gan_3d.perceptual import NETWORKS


def build_losses(model: DictConfig, window: Window, shape: tuple[int, int, int, int]) -> Losses:
    """The pointwise loss and the further terms, without those of weight 0, whose files are not read.

    Args:
        window: HU window of the run, which a classifier must share.
        shape: `(c, d, h, w)` of the latents.

    Raises:
        ValueError: for invalid values.
        UserError: for a network that is missing or does not fit.
    """
    options = model.losses
    adversarial = options.adversarial
    pointwise, weights = parse_loss_type(model.loss_type, {name: term.weight for name, term in options.items()})
    builders = {
        "perceptual": lambda: PerceptualTerm(_features(options.perceptual.network), options.perceptual.slices),
        "adversarial": lambda: AdversarialTerm(
            instantiate(adversarial.discriminator, in_channels=shape[0]), instantiate(adversarial.optimizer), shape
        ),
        "classification": lambda: ClassificationTerm(_classifier(options.classification.classifier_ckpt, window)),
    }
    terms = {name: builders[name]() for name in weights}
    return Losses(pointwise, GeneratorLosses(terms, weights) if terms else None, adversarial.start)


def _features(network: str):
    if network in NETWORKS:
        return NETWORKS[network]()
    if not str(network).endswith((".pth", ".pt", ".safetensors")):
        raise ValueError(
            f"model.losses.perceptual.network={network}: choose one of {', '.join(NETWORKS)}, or give the path of "
            "torchvision's VGG16 weights (.pth or .safetensors)"
        )
    try:
        return VGG16Features.from_file(network)
    except ValueError as error:
        raise UserError(f"model.losses.perceptual.network={error}") from error


def _classifier(path: str | None, window: Window):
    key = f"model.losses.classification.classifier_ckpt={path}"
    if not path or not Path(path).is_file():
        raise UserError(
            f"{key}: no such file, and model.loss_type includes the classification term; give a classifier's "
            "checkpoint, or set model.losses.classification.weight=0"
        )
    classifier, protocol = load_classifier(path)
    found = protocol.get("window")
    if found is None or Window.parse(found) != window:
        raise UserError(
            f"{key}: trained on volumes in the window {found} HU, but dataset.window is [{window.low:g}, "
            f"{window.high:g}]; set dataset.window to it, or give a classifier of this window"
        )
    return classifier
