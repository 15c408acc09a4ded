"""Words of `model.loss_type`."""

import pytest

from ddpm.losses.loss_type import parse_loss_type

OPEN = {"perceptual": None, "adversarial": None, "classification": None}


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("l1", ("l1", {})),
        ("l2", ("l2", {})),
        ("huber", ("huber", {})),
        ("l1_lpips", ("l1", {"perceptual": 0.01})),
        ("l1_disc", ("l1", {"adversarial": 0.01})),
        ("l1_cls", ("l1", {"classification": 0.01})),
        ("l2_lpips_disc_cls", ("l2", {"perceptual": 0.01, "adversarial": 0.01, "classification": 0.01})),
    ],
)
def test_names_and_their_sums(loss_type, expected):
    assert parse_loss_type(loss_type, OPEN) == expected


def test_a_weight_overrides_the_name_both_ways():
    assert parse_loss_type("l1_lpips", {**OPEN, "perceptual": 0}) == ("l1", {})
    assert parse_loss_type("l1", {**OPEN, "perceptual": 0.5}) == ("l1", {"perceptual": 0.5})
    assert parse_loss_type("l1_disc", {**OPEN, "adversarial": 0.2}) == ("l1", {"adversarial": 0.2})


@pytest.mark.parametrize("loss_type", ["l3", "lpips", "l1_lpips_lpips", "l1-lpips", "l1_gan", "", None])
def test_unknown_words_name_the_choices(loss_type):
    with pytest.raises(ValueError, match="model.loss_type=.*l1, l2, huber.*_lpips, _disc, _cls"):
        parse_loss_type(loss_type, OPEN)


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_negative_weights_are_refused(weight):
    with pytest.raises(ValueError, match="model.losses.adversarial.weight"):
        parse_loss_type("l1", {**OPEN, "adversarial": weight})
