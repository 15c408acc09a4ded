"""Trainings on two views, which drop one at times, and their weights with one X-ray and two."""

import pytest
import torch

from common.errors import UserError
from dataset.imaging.unknown_pixels import present_views
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.module import DDPMModule
from train.generator.distillation_pairs import record_pairs

TWO = ("dataset=phantom", "dataset.train=12", "dataset.val=1", "dataset.test=1", "dataset.views=2",
       "model.objective.prediction=sample", "model.train_num_steps=8", "model.save_and_sample_every=8")  # fmt: skip
UNKNOWN = ("dataset.pose_noise=true", "model.prior.start=0")


@pytest.fixture(scope="module")
def shared(train, vae, tmp_path_factory):
    """The checkpoint of a training on X-rays of unknown pose, and which views its batches showed."""
    shown, losses = [], DDPMModule.losses

    def recorded(self, batch, *arguments):
        shown.append((self.training, present_views(batch["xray"])))
        return losses(self, batch, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DDPMModule, "losses", recorded)
        folder = train(tmp_path_factory.mktemp("two"), *TWO, *UNKNOWN, f"model.vae_ckpt={vae}")
    return folder / "last.ckpt", shown


def denoised(pipeline, xray: torch.Tensor) -> torch.Tensor:
    """The latents after two steps; the volumes of a tiny decoder do not differ."""
    found = []
    pipeline(xray, seed=1, num_inference_steps=2, preview=lambda step, latents: found.append(latents))
    return found[-1]


def test_training_drops_views_and_validation_does_not(shared):
    seen = torch.cat([present for training, present in shared[1] if training])
    assert {tuple(row) for row in seen.tolist()} == {(True, True), (True, False), (False, True)}
    assert all(present.all() for training, present in shared[1] if not training)


def test_its_weights_take_one_x_ray_or_two(shared, tmp_path):
    exported = export_pipeline(load_pipeline(shared[0]), tmp_path / "small.safetensors", torch.float32)
    for path in (shared[0], exported):
        pipeline = load_pipeline(path)
        assert isinstance(pipeline.prior, ViewPriors) and pipeline.protocol["view_drop"] == 0.5
        xray = torch.rand(1, 2, 1, 32, 32)
        both, frontal = (denoised(pipeline, part) for part in (xray, xray[:, :1]))
        missing = torch.cat([xray[:, :1], torch.full_like(xray[:, :1], torch.nan)], dim=1)
        assert torch.equal(denoised(pipeline, missing), frontal) and not torch.equal(both, frontal)
        lateral = torch.cat([torch.full_like(xray[:, :1], torch.nan), xray[:, 1:]], dim=1)
        found = denoised(pipeline, lateral)
        assert found.isfinite().all() and not torch.equal(found, frontal)


class Xrays:
    """Cases of two views without volumes."""

    def __len__(self) -> int:
        return 4

    def condition(self, index: int, step: int = -1) -> dict:
        xray = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(index))
        extent = torch.tensor([300.0, 300.0, 300.0])
        return {"xray": xray, "pose": torch.full((2, 9), torch.nan), "spacing": extent / 32.0}


def test_a_distillation_drops_views_as_the_training_whatever_its_batch_size(shared, monkeypatch):
    pipeline = load_pipeline(shared[0]).set_sampler("DPMSolverMultistepScheduler", 2)
    condition, found = pipeline.condition, []
    for batch_size in (2, 8):
        shown: list = []
        record = lambda xray, *rest, shown=shown: (shown.append(present_views(xray)), condition(xray, *rest))[1]  # noqa: E731
        monkeypatch.setattr(pipeline, "condition", record)
        list(record_pairs(pipeline, Xrays(), [999], 24, seed=0, batch_size=batch_size))
        found.append(torch.cat(shown))
    assert torch.equal(*found)
    assert {tuple(row) for row in found[0].tolist()} == {(True, True), (True, False), (False, True)}


def test_without_dropped_views_both_are_needed(train, vae, tmp_path):
    folder = train(tmp_path, *TWO, f"model.vae_ckpt={vae}", "model.conditioning.view_drop=0")
    pipeline = load_pipeline(folder / "last.ckpt")
    assert isinstance(pipeline.prior, LinearPrior) and "view_drop" not in pipeline.protocol
    with pytest.raises(UserError, match="1 view of a patient, the checkpoint takes 2"):
        pipeline(torch.rand(1, 1, 1, 32, 32))


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["dataset.views=1", "model.conditioning.view_drop=0.5"], "model.conditioning.view_drop=0.5: .* one view"),
        (["dataset.views=1", "dataset.pose_noise=true", "model.init_from={shared}"], "dataset.views=1: .* on 2"),
    ],
)
def test_settings_that_do_not_fit_the_views_are_refused(train, vae, shared, tmp_path, overrides, found):
    overrides = [text.format(shared=shared[0]) for text in overrides]
    with pytest.raises(UserError, match=found):
        train(tmp_path, *TWO[:4], *TWO[5:], f"model.vae_ckpt={vae}", *overrides)
