"""Dropped and missing views: which, how often, and no influence of a dropped view on anything."""

import pytest
import torch
from ddpm_parts import EXTENT, item, module
from torch.utils.data import default_collate

from common.errors import UserError
from dataset.imaging.geometry import make_pose
from dataset.imaging.unknown_pixels import present_views
from ddpm.conditioning.condition import make_condition
from ddpm.conditioning.lift import RayLift
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.conditioning.views import complete_views, draw_views, mean_over_views, without_views
from ddpm.xray_encoder import CNNXrayEncoder

SHARED = {"views": 2, "view_drop": 0.5}


def two_views(*indices: int, step: int = 0) -> dict:
    """A batch of cases with a frontal and a lateral."""
    batch = default_collate([item(i, step + row) for row, i in enumerate(indices)])
    rng = torch.Generator().manual_seed(sum(indices))
    poses = torch.stack([make_pose(EXTENT), make_pose(EXTENT, 90.0)]).expand(len(indices), -1, -1)
    return {**batch, "xray": torch.rand(len(indices), 2, 1, 64, 64, generator=rng), "pose": poses}


def test_views_are_dropped_as_often_as_asked_and_never_all():
    shown = draw_views(0.5, 2, seed=0, steps=range(2000), first=0)
    assert shown.any(dim=1).all()
    both, frontal, lateral = (float((shown == torch.tensor(s)).all(dim=1).float().mean())
                              for s in ((True, True), (True, False), (False, True)))  # fmt: skip
    assert both == pytest.approx(0.5, abs=0.05) and frontal == pytest.approx(lateral, abs=0.05)
    assert draw_views(1.0, 4, 0, range(200), 0).sum(dim=1).unique().tolist() == [1, 2, 3]
    assert draw_views(1.0, 1, 0, range(9), 0).all() and draw_views(0.0, 2, 0, range(9), 0).all()


def test_the_draw_depends_on_seed_step_and_position_alone():
    together = draw_views(0.9, 2, 1, [5] * 40, first=0)
    assert torch.equal(together, torch.cat([draw_views(0.9, 2, 1, [5], first=row) for row in range(40)]))
    assert not torch.equal(together, draw_views(0.9, 2, 2, [5] * 40, first=0))
    assert not torch.equal(together, draw_views(0.9, 2, 1, [6] * 40, first=0))


def test_a_patient_never_loses_the_only_view_left():
    xray = two_views(0, 1)["xray"]
    xray[0, 1] = torch.nan
    kept = without_views(xray, torch.tensor([[False, True], [False, True]]))
    assert present_views(kept).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("form", ["xray", "pose"])
def test_a_dropped_view_has_no_influence_on_the_loss(form):
    torch.manual_seed(0)
    prior = ViewPriors((4, 8, 8, 8), pixels=8, rank=3).fit(torch.rand(8, 2, 1, 64, 64), torch.randn(8, 4, 8, 8, 8))
    m = module(prior=prior)
    m.view_drop = 1.0
    torch.nn.init.normal_(m.trained["denoiser"].out.weight)
    batch = two_views(0, 1, 2, 0)
    shown = draw_views(1.0, 2, m.seed, batch["step"], 0)
    assert len(shown.unique(dim=0)) == 2  # both views are dropped somewhere
    other = {**batch, form: batch[form].clone()}
    other[form][~shown] = torch.rand_like(other[form][~shown])
    kept = {**batch, form: batch[form].clone()}
    kept[form][shown] += 0.5

    def loss(batch: dict) -> torch.Tensor:
        return m.losses(m._without_views(batch), *m._draw(batch))[0]

    assert torch.equal(loss(other), loss(batch))
    assert (loss(kept) != loss(batch)).all()


def test_a_missing_view_takes_part_in_no_form_of_the_condition():
    torch.manual_seed(0)
    encoder, lift = CNNXrayEncoder(width=8, blocks=1, feature_channels=8, embedding_dim=16).eval(), RayLift(8, 4, 4)
    batch, extent = two_views(0, 1), torch.tensor(EXTENT).expand(2, 3)
    xray, pose = batch["xray"], batch["pose"]

    def condition(xray, pose):
        return make_condition(encoder(xray), lift, pose, extent, (4, 4, 4), 2, present=present_views(xray))

    for view in (0, 1):
        shown = torch.tensor([view == 0, view == 1]).expand(2, 2)
        missing, alone = condition(without_views(xray, shown), pose), condition(xray[:, [view]], pose[:, [view]])
        assert torch.allclose(missing.embedding, alone.embedding, atol=1e-6)
        assert torch.allclose(missing.features, alone.features, atol=1e-6)
        tokens = missing.tokens.unflatten(1, (2, -1))
        assert torch.allclose(tokens[:, view], alone.tokens, atol=1e-6) and not tokens[:, 1 - view].any()
    both, turned = condition(xray, pose), condition(xray.flip(1), pose.flip(1))
    assert torch.allclose(both.features, turned.features, atol=1e-6)  # of views with their poses the order is free
    assert not torch.allclose(both.features, condition(xray.flip(1), pose).features, atol=1e-3)


def test_the_mean_of_present_views_is_that_of_all_if_none_is_missing():
    parts, both = torch.randn(3, 2, 5, 4), torch.ones(3, 2, dtype=torch.bool)
    assert torch.equal(mean_over_views(parts, both), parts.mean(dim=1))
    assert torch.equal(mean_over_views(parts, None), parts.mean(dim=1))


def test_one_view_is_completed_for_weights_of_two_and_refused_by_others():
    xray = torch.rand(2, 1, 1, 8, 8)
    full, pose = complete_views(xray, None, SHARED)
    assert torch.equal(full[:, :1], xray) and present_views(full).tolist() == [[True, False]] * 2
    assert pose.shape == (2, 2, 9) and pose[:, 0, 2].tolist() == [0.0, 0.0]
    assert complete_views(torch.rand(1, 2, 1, 8, 8), None, SHARED)[1][0, :, 2].tolist() == [0.0, 90.0]
    for views, protocol, found in ((1, {"views": 2}, "1 view of"), (2, {"views": 1}, "2 views of"), (3, SHARED, "3")):
        with pytest.raises(UserError, match=found):
            complete_views(torch.rand(1, views, 1, 8, 8), None, protocol)
    with pytest.raises(UserError, match="trained on all 2 views"):
        complete_views(full, None, {"views": 2})
