"""Unknown poses through the training command: guessed where X-rays have none, carried by the checkpoint, used."""

import pytest
import torch

from dataset.errors import UserError
from dataset.geometry import make_pose
from ddpm.checkpoint import export_pipeline, load_pipeline
from ddpm.pipeline import XrayToCTPipeline

CASES = ["dataset=phantom", "dataset.train=12", "dataset.val=1", "dataset.test=1", "model.prior_rank=2",
         "model.prior_pixels=8", "model.prediction=sample"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(train, vae, tmp_path_factory):
    def run(*overrides: str):
        folder = train(tmp_path_factory.mktemp("run"), *CASES, f"model.vae_ckpt={vae}", *overrides)
        return load_pipeline(folder / "last.ckpt")

    return run


def denoised(pipeline, xray: torch.Tensor, pose: torch.Tensor | None = None) -> torch.Tensor:
    found = []
    pipeline(xray, pose, seed=1, num_inference_steps=2, preview=lambda step, latents: found.append(latents))
    return found[-1]


def test_where_poses_are_unknown_they_are_guessed_and_only_there(trained, tmp_path):
    pipeline = trained("dataset.pose_noise=true")
    assert pipeline.pose_guess is not None and pipeline.pose_guess.weight.abs().sum() > 0
    pipeline.save_pretrained(tmp_path / "folder")
    export_pipeline(pipeline, tmp_path / "one.safetensors", torch.float32)
    xray = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    pose = make_pose(pipeline.extent).expand(2, 1, 9)
    guess, pipeline.pose_guess = pipeline.pose_guess, None
    laid, turned = guess(xray, pose, torch.ones(2, 1, dtype=torch.bool))
    by_hand, as_told = denoised(pipeline, laid, turned), denoised(pipeline, xray, pose)
    pipeline.pose_guess = guess
    torch.testing.assert_close(denoised(pipeline, xray), by_hand)  # no pose: the picture is laid
    torch.testing.assert_close(denoised(pipeline, xray, pose), as_told)  # told: taken at its word
    assert not torch.allclose(by_hand, as_told)
    for again in (XrayToCTPipeline.from_pretrained(tmp_path / "folder"), load_pipeline(tmp_path / "one.safetensors")):
        torch.testing.assert_close(denoised(again, xray), by_hand)


def test_it_can_be_left_out_or_asked_for(trained):
    assert trained("dataset.pose_noise=true", "model.pose_guess=false").pose_guess is None
    assert trained().pose_guess is None
    assert trained("model.pose_guess=true").pose_guess is not None


def test_too_few_patients_are_said(trained, caplog):
    few = ["dataset.pose_noise=true", "dataset.train=4"]
    assert trained(*few).pose_guess is None
    assert "4 training patients are too few to guess the unknown poses" in caplog.text
    with pytest.raises(UserError, match="4 training patients.*model.pose_guess=false"):
        trained(*few, "model.pose_guess=true")


def test_a_frozen_encoder_sees_what_is_laid(trained, monkeypatch):
    from train import features

    seen = []
    kept = features.EncodedDataset.__init__

    def watch(self, items, encoder, device, description, lay):
        seen.append((items[0]["xray"], lay(torch.utils.data.default_collate([items[0]]))["xray"][0]))
        kept(self, items, encoder, device, description, lay)

    monkeypatch.setattr(features.EncodedDataset, "__init__", watch)
    trained("dataset.pose_noise=true", "model.freeze_xray_encoder=true")
    assert len(seen) == 2 and all(not torch.equal(raw, laid) for raw, laid in seen)


def test_a_stopped_run_goes_on_as_if_it_had_not(train, vae, tmp_path):
    told = [*CASES, f"model.vae_ckpt={vae}", "dataset.pose_noise=true"]
    whole = load_pipeline(train(tmp_path / "whole", *told) / "last.ckpt")
    folder = train(tmp_path / "parts", *told)
    (folder / "saved2.ckpt").replace(folder / "last.ckpt")
    resumed = load_pipeline(train(tmp_path / "parts", *told, "model.resume=auto") / "last.ckpt")
    for name, value in whole.denoiser.state_dict().items():
        assert torch.equal(value, resumed.denoiser.state_dict()[name]), name
