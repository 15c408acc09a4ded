"""Unknown poses through the training command: guessed where X-rays have none, carried by the checkpoint, used."""

import pytest
import torch

from common.errors import UserError
from dataset.imaging.geometry import make_pose
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.module import DDPMModule
from ddpm.pipeline import XrayToCTPipeline

CASES = ["dataset=phantom", "dataset.train=12", "dataset.val=1", "dataset.test=1", "model.prior.rank=2",
         "model.prior.pixels=8", "model.objective.prediction=sample"]  # fmt: skip


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
    assert pipeline.pose_regressor is not None and pipeline.pose_regressor.weight.abs().sum() > 0
    pipeline.save_pretrained(tmp_path / "folder")
    export_pipeline(pipeline, tmp_path / "one.safetensors", torch.float32)
    xray = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    pose = make_pose(pipeline.extent).expand(2, 1, 9)
    guess, pipeline.pose_regressor = pipeline.pose_regressor, None
    laid, turned = guess(xray, pose, torch.ones(2, 1, dtype=torch.bool))
    by_hand, as_told = denoised(pipeline, laid, turned), denoised(pipeline, xray, pose)
    pipeline.pose_regressor = guess
    torch.testing.assert_close(denoised(pipeline, xray), by_hand)  # no pose: the picture is laid
    torch.testing.assert_close(denoised(pipeline, xray, pose), as_told)  # told: taken at its word
    assert not torch.allclose(by_hand, as_told)
    for again in (XrayToCTPipeline.from_pretrained(tmp_path / "folder"), load_pipeline(tmp_path / "one.safetensors")):
        torch.testing.assert_close(denoised(again, xray), by_hand)


def test_it_can_be_left_out_or_asked_for(trained):
    assert trained("dataset.pose_noise=true", "model.pose_regressor=false").pose_regressor is None
    assert trained().pose_regressor is None
    assert trained("model.pose_regressor=true").pose_regressor is not None


def test_too_few_patients_are_said(trained, caplog):
    few = ["dataset.pose_noise=true", "dataset.train=4"]
    assert trained(*few).pose_regressor is None
    assert "4 training patients are too few to guess the unknown poses" in caplog.text
    with pytest.raises(UserError, match="4 training patients.*model.pose_regressor=false"):
        trained(*few, "model.pose_regressor=true")


@pytest.fixture
def seen(monkeypatch):
    """What the network was shown: (module, batch) of every loss, of training and of validation."""
    found, losses = [], DDPMModule.losses

    def watch(self, batch, *arguments):
        found.append((self, self.training, batch))
        return losses(self, batch, *arguments)

    monkeypatch.setattr(DDPMModule, "losses", watch)
    return found


@pytest.mark.parametrize("frozen", ["false", "true"])
def test_the_network_is_shown_what_is_laid(trained, seen, frozen):
    trained("dataset.pose_noise=true", f"model.freeze_xray_encoder={frozen}")
    assert {training for _, training, _ in seen} == {True, False}
    for module, training, batch in seen:
        data, guess = module.trainer.datamodule, module.trained["pose_regressor"]
        items = data.train if training else data.val
        raw = torch.stack([items[int(i)]["xray"] for i in batch["index"]])
        nominal = make_pose((320.0, 256.0, 352.0)).expand(len(raw), 1, 9)
        index = batch["index"] if training else None  # each training case by what has not seen it
        laid, turned = guess(raw, nominal, torch.ones(len(raw), 1, dtype=torch.bool), index)
        torch.testing.assert_close(batch["xray"], laid)
        torch.testing.assert_close(batch["pose"], turned)
        assert not torch.allclose(laid, raw, atol=1e-3)
        if frozen == "true":
            by_hand = module.trained["xray_encoder"](laid).maps
            torch.testing.assert_close(batch["xray_maps"].float(), by_hand, atol=2e-2, rtol=2e-2)


def test_the_linear_guess_is_fitted_on_what_is_laid(trained, seen, monkeypatch):
    given, fit = [], LinearPrior.fit
    monkeypatch.setattr(
        LinearPrior, "fit", lambda self, xrays, *rest: (given.append(xrays), fit(self, xrays, *rest))[1]
    )
    trained("dataset.pose_noise=true")
    shown = {int(i): x for _, training, b in seen if training for i, x in zip(b["index"], b["xray"], strict=True)}
    for index, xray in shown.items():
        torch.testing.assert_close(given[0][index], torch.nn.functional.adaptive_avg_pool2d(xray, 8))


@pytest.mark.parametrize(
    ("overrides", "steps_without"),
    [
        (("dataset.pose_noise=true",), {0, 1}),  # 0.4 of 4 batches
        (("dataset.pose_noise=true", "model.prior.start=0"), set()),
        (("dataset.pose_noise=true", "model.pose_regressor=false"), set()),
        (("model.prior.preconditioning=true", "model.prior.start=0.75"), {0, 1, 2}),
        ((), set()),
    ],
)
def test_the_linear_guess_is_hidden_where_poses_are_guessed_or_as_told(
    train, vae, tmp_path, monkeypatch, overrides, steps_without
):
    """In training, in validation after a batch, and in the checkpoint of that batch."""
    found, predict = [], DDPMModule.predict

    def watch(self, noisy, timestep, batch, keep):
        hidden = bool(self.trained["prior"](batch["xray"]).eq(0).all())
        found.append((self.training, int(batch["step"][0]) if self.training else self.trainer.global_step - 1, hidden))
        return predict(self, noisy, timestep, batch, keep)

    monkeypatch.setattr(DDPMModule, "predict", watch)
    folder = train(tmp_path, *CASES, f"model.vae_ckpt={vae}", *overrides)
    assert {step for training, step, hidden in found if training and hidden} == steps_without
    assert all(hidden == (step in steps_without) for _, step, hidden in found)
    assert {training for training, _, _ in found} == {True, False}
    for saved in folder.glob("saved*.ckpt"):
        done = int(saved.stem.removeprefix("saved"))
        assert load_pipeline(saved).prior.config.hidden == (done - 1 in steps_without), saved.name


@pytest.mark.parametrize("told", ["1.0", "-0.1", "0.4"])
def test_a_share_that_cannot_be_is_refused(train, vae, tmp_path, told):
    without = ["model.prior.rank=0"] if told == "0.4" else []
    with pytest.raises(UserError, match=f"model.prior.start={told}: "):
        train(tmp_path, *CASES, f"model.vae_ckpt={vae}", f"model.prior.start={told}", *without)


def test_what_was_shown_stays_shown_in_a_longer_training(train, vae, tmp_path):
    told = [*CASES, f"model.vae_ckpt={vae}", "dataset.pose_noise=true"]
    train(tmp_path, *told)
    longer = ["model.train_num_steps=8", "model.prior.start=0.9", "model.resume=auto", "model.resume_changed=true"]
    folder = train(tmp_path, *told, *longer)
    assert [load_pipeline(folder / f"saved{n}.ckpt").prior.config.hidden for n in (2, 4, 6, 8)] == [True, *[False] * 3]


def test_a_run_that_has_not_seen_the_guess_yet_is_no_origin(train, vae, tmp_path):
    early = train(tmp_path / "early", *CASES, f"model.vae_ckpt={vae}", "model.prior.start=0.75") / "saved2.ckpt"
    more = [*CASES, "model.allow_seen_patients=true", f"model.init_from={early}"]
    with pytest.raises(UserError, match="saved before its run used the linear prior"):
        train(tmp_path / "more", *more)
    with pytest.raises(UserError, match="model.prior.start=0.4: model.init_from=.* leave it out"):
        train(tmp_path / "more", *more, "model.prior.start=0.4")


def test_another_run_keeps_its_own(train, vae, tmp_path):
    told = [*CASES, f"model.vae_ckpt={vae}", "dataset.pose_noise=true"]
    with_it = train(tmp_path / "with", *told) / "last.ckpt"
    without = train(tmp_path / "without", *told, "model.pose_regressor=false") / "last.ckpt"
    more = ["model.vae_ckpt=null", "model.allow_seen_patients=true", *told[:-2], "dataset.pose_noise=true"]
    more = [word for word in more if not word.startswith("model.vae_ckpt=/")]
    again = load_pipeline(train(tmp_path / "more", *more, f"model.init_from={with_it}") / "last.ckpt")
    assert torch.equal(again.pose_regressor.weight, load_pipeline(with_it).pose_regressor.weight)
    for origin, asked, had in ((with_it, "false", "with"), (without, "true", "without")):
        with pytest.raises(UserError, match=f"model.pose_regressor={asked}: .* was trained {had} it"):
            train(tmp_path / had, *more, f"model.init_from={origin}", f"model.pose_regressor={asked}")


def test_a_stopped_run_goes_on_as_if_it_had_not(train, vae, tmp_path):
    told = [*CASES, f"model.vae_ckpt={vae}", "dataset.pose_noise=true"]
    whole = load_pipeline(train(tmp_path / "whole", *told) / "last.ckpt")
    folder = train(tmp_path / "parts", *told)
    (folder / "saved2.ckpt").replace(folder / "last.ckpt")
    resumed = load_pipeline(train(tmp_path / "parts", *told, "model.resume=auto") / "last.ckpt")
    for name, value in whole.denoiser.state_dict().items():
        assert torch.equal(value, resumed.denoiser.state_dict()[name]), name
