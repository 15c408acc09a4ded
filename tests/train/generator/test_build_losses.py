"""`model.loss_type` builds and reads the networks with a positive weight, and no other."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from common.errors import UserError
from common.files import ROOT
from dataset.imaging.hu_window import Window
from ddpm.checkpoint.write import export_classifier
from ddpm.classifiers.ct import CTClassifier
from ddpm.module import Losses
from train.generator.build_losses import build_losses

CONFIG = ROOT / "config"
WINDOW, SHAPE = Window(-200, 500), (4, 16, 16, 16)


def build(*overrides: str):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        model = compose("train_ddpm", [f"model.{o}" for o in overrides]).model
    return build_losses(model, WINDOW, SHAPE)


def classifier_file(path: Path, window=(-200, 500)) -> Path:
    network = CTClassifier(2, init_features=4, growth_rate=2, block_config=(1,))
    return export_classifier(network, path, {"window": list(window)})


def test_each_term_is_built_with_its_weight(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    path = classifier_file(tmp_path / "classifier.safetensors")
    built = build(
        "loss_type=l1_lpips_disc_cls", "losses.perceptual.weight=0.2", f"losses.classification.classifier_ckpt={path}"
    )
    losses = built.terms
    assert built.pointwise == "l1"
    assert losses.weights == {"perceptual": 0.2, "adversarial": 0.01, "classification": 0.01}
    assert losses.terms["perceptual"].slices == 2
    assert losses.terms["adversarial"].optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_weight_zero_opens_no_file_and_builds_no_network(monkeypatch):
    for name in ("PerceptualTerm", "AdversarialTerm", "ClassificationTerm", "load_classifier"):
        monkeypatch.setattr(f"train.generator.build_losses.{name}", lambda *a, n=name: pytest.fail(n))
    before = set(sys.modules)
    missing = ["losses.classification.classifier_ckpt=/nowhere.ckpt", "losses.perceptual.network=/nowhere.pth"]
    zero = ["losses.perceptual.weight=0", "losses.adversarial.weight=0", "losses.classification.weight=0"]
    assert build("loss_type=l1_lpips_disc_cls", *missing, *zero) == Losses("l1")
    assert build("loss_type=l2", *missing) == Losses("l2")
    assert not {m for m in set(sys.modules) - before if "efficientnet" in m}


CLASSIFIER = "losses.classification.classifier_ckpt"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["loss_type=l1_cls"], [f"model.{CLASSIFIER}=None", "losses.classification.weight=0"]),
        (["loss_type=l1_cls", f"{CLASSIFIER}=/nowhere.ckpt"], [f"model.{CLASSIFIER}=/nowhere.ckpt", "no such file"]),
        (["losses.classification.weight=0.1", f"{CLASSIFIER}=/nowhere.ckpt"], ["/nowhere.ckpt", "no such file"]),
        (["loss_type=l1_lpips", "losses.perceptual.network=/nowhere.pth"], ["perceptual.network=/nowhere.pth"]),
        (["loss_type=l1_lpips", "losses.perceptual.network=vgg"], ["perceptual.network=vgg", "efficientnet_lite0"]),
        (["loss_type=l1_lpips", "losses.perceptual.slices=0"], ["model.losses.perceptual.slices=0"]),
        (["loss_type=l1_disc", "losses.adversarial.discriminator.num_layers_d=6"], ["discriminator", "num_layers_d"]),
        (["loss_type=l1_gan"], ["model.loss_type=l1_gan", "_disc"]),
    ],
)
def test_missing_or_invalid_networks_are_named_in_one_line(overrides, parts):
    if "losses.perceptual.slices=0" in overrides:
        pytest.importorskip("efficientnet_lite_pytorch")
    with pytest.raises((UserError, ValueError)) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts)


def test_a_classifier_of_another_window_is_rejected(tmp_path):
    path = classifier_file(tmp_path / "wide.safetensors", (-1000, 1000))
    with pytest.raises(UserError, match=r"window \[-1000, 1000\] HU, but dataset.window is \[-200, 500\]"):
        build("loss_type=l1_cls", f"losses.classification.classifier_ckpt={path}")
