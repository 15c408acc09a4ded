"""Pose regressor and linear prior in the training command: fitted where poses are unknown, saved, and used."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from dataset.imaging.geometry import make_pose
from dataset.imaging.unknown_pixels import pooled
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import export_pipeline
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.module import DDPMModule
from ddpm.pipeline import XrayToCTPipeline

CASES = ["dataset=phantom", "dataset.train=12", "dataset.val=1", "dataset.test=1", "model.objective.prediction=sample"]
UNKNOWN = "dataset.pose_noise=true"
WITHOUT = "model.pose_regressor=false"
FROZEN = (UNKNOWN, "model.prior.start=0", "model.freeze_xray_encoder=true")


@pytest.fixture(scope="module")
def run(train, vae, tmp_path_factory):
    """Trains once for the same options; gives the folder of the checkpoints and what the networks received."""
    kept = {}

    def trained(*overrides: str) -> SimpleNamespace:
        if overrides not in kept:
            with pytest.MonkeyPatch.context() as patch:
                batches, hidden, fitted = record(patch)
                folder = train(tmp_path_factory.mktemp("run"), *CASES, f"model.vae_ckpt={vae}", *overrides)
            kept[overrides] = SimpleNamespace(folder=folder, batches=batches, hidden=hidden, fitted=fitted)
        return kept[overrides]

    return trained


def record(patch: pytest.MonkeyPatch) -> tuple[list, list, list]:
    """Batches `(module, training, batch)` of every loss, steps without prior `(training, step, hidden)`, X-rays of the
    fit of the linear prior."""
    batches, hidden, fitted = [], [], []
    losses, predict, fit = DDPMModule.losses, DDPMModule.predict, LinearPrior.fit

    def recorded_losses(self, batch, *arguments):
        batches.append((self, self.training, batch))
        return losses(self, batch, *arguments)

    def recorded_predict(self, noisy, timestep, batch, keep):
        none = bool(self.trained["prior"](batch["xray"]).eq(0).all())
        hidden.append((self.training, int(batch["step"][0]) if self.training else self.trainer.global_step - 1, none))
        return predict(self, noisy, timestep, batch, keep)

    def recorded_fit(self, xrays, *rest):
        fitted.append(xrays)
        return fit(self, xrays, *rest)

    patch.setattr(DDPMModule, "losses", recorded_losses)
    patch.setattr(DDPMModule, "predict", recorded_predict)
    patch.setattr(LinearPrior, "fit", recorded_fit)
    return batches, hidden, fitted


def last(folder: Path) -> XrayToCTPipeline:
    return load_pipeline(folder / "last.ckpt")


def denoised(pipeline, xray: torch.Tensor, pose: torch.Tensor | None = None) -> torch.Tensor:
    found = []
    pipeline(xray, pose, seed=1, num_inference_steps=2, preview=lambda step, latents: found.append(latents))
    return found[-1]


def test_x_rays_without_a_pose_are_aligned_and_others_are_not(run, tmp_path):
    pipeline = last(run(UNKNOWN).folder)
    assert pipeline.pose_regressor is not None and pipeline.pose_regressor.weight.abs().sum() > 0
    pipeline.save_pretrained(tmp_path / "folder")
    export_pipeline(pipeline, tmp_path / "one.safetensors", torch.float32)
    xray = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    pose = make_pose(pipeline.extent).expand(2, 1, 9)
    regressor, pipeline.pose_regressor = pipeline.pose_regressor, None
    aligned, estimated = regressor(xray, pose, torch.ones(2, 1, dtype=torch.bool))
    expected, unaligned = denoised(pipeline, aligned, estimated), denoised(pipeline, xray, pose)
    pipeline.pose_regressor = regressor
    torch.testing.assert_close(denoised(pipeline, xray), expected)
    torch.testing.assert_close(denoised(pipeline, xray, pose), unaligned)
    assert not torch.allclose(expected, unaligned)
    for again in (XrayToCTPipeline.from_pretrained(tmp_path / "folder"), load_pipeline(tmp_path / "one.safetensors")):
        torch.testing.assert_close(denoised(again, xray), expected)


def test_the_regressor_is_optional(run):
    assert last(run(UNKNOWN, WITHOUT).folder).pose_regressor is None
    assert last(run().folder).pose_regressor is None
    assert last(run("model.pose_regressor=true").folder).pose_regressor is not None


def test_too_few_patients_give_a_warning_or_an_error(run, caplog):
    few = [UNKNOWN, "dataset.train=4"]
    assert last(run(*few).folder).pose_regressor is None
    assert "4 training patients are too few for a pose regressor" in caplog.text
    with pytest.raises(UserError, match="4 training patients.*model.pose_regressor=false"):
        run(*few, "model.pose_regressor=true")


@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_gets_aligned_x_rays(run, frozen):
    batches = run(*FROZEN if frozen else (UNKNOWN,)).batches
    assert {training for _, training, _ in batches} == {True, False}
    for module, training, batch in batches:
        data, regressor = module.trainer.datamodule, module.trained["pose_regressor"]
        items = data.train if training else data.val
        raw = torch.stack([items[int(i)]["xray"] for i in batch["index"]])
        nominal = make_pose((320.0, 256.0, 352.0)).expand(len(raw), 1, 9)
        index = batch["index"] if training else None  # a training case by the regression without its patient
        aligned, estimated = regressor(raw, nominal, torch.ones(len(raw), 1, dtype=torch.bool), index)
        torch.testing.assert_close(batch["xray"], aligned)
        torch.testing.assert_close(batch["pose"], estimated)
        assert not torch.allclose(aligned, raw, atol=1e-3)
        if frozen:
            maps = module.trained["xray_encoder"](aligned).maps
            torch.testing.assert_close(batch["xray_maps"].float(), maps, atol=2e-2, rtol=2e-2)


def test_the_linear_prior_is_fitted_on_aligned_x_rays(run):
    done = run(UNKNOWN)
    for _, training, batch in done.batches:
        for index, xray in zip(batch["index"], batch["xray"], strict=True) if training else ():
            torch.testing.assert_close(done.fitted[0][int(index)], torch.nn.functional.adaptive_avg_pool2d(xray, 8))


def test_the_linear_prior_is_fitted_on_augmented_x_rays(run):
    done = run("dataset.film_augment=true")
    cases = done.batches[0][0].trainer.datamodule.train
    for index, xray in enumerate(done.fitted[0]):
        expected = pooled(cases[(index, 0)]["xray"], 8)
        torch.testing.assert_close(xray, expected, equal_nan=True)
        assert not torch.allclose(xray.nan_to_num(), pooled(cases[index]["xray"], 8), atol=1e-2)
    assert torch.cat(done.fitted).isnan().any() and last(done.folder).prior.fill_loadings.any()


@pytest.mark.parametrize(
    ("overrides", "steps_without"),
    [
        ((UNKNOWN,), {0, 1}),  # 0.4 of 4 batches
        (FROZEN, set()),
        ((UNKNOWN, WITHOUT), set()),
        (("model.prior.preconditioning=true", "model.prior.start=0.75"), {0, 1, 2}),
        ((), set()),
    ],
)
def test_the_linear_prior_starts_late_with_a_pose_regressor_or_by_its_key(run, overrides, steps_without):
    """In training, in validation after a batch, and in the checkpoint of that batch."""
    done = run(*overrides)
    assert {step for training, step, hidden in done.hidden if training and hidden} == steps_without
    assert all(hidden == (step in steps_without) for _, step, hidden in done.hidden)
    assert {training for training, _, _ in done.hidden} == {True, False}
    for saved in done.folder.glob("saved*.ckpt"):
        count = int(saved.stem.removeprefix("saved"))
        assert load_pipeline(saved).prior.config.hidden == (count - 1 in steps_without), saved.name


@pytest.mark.parametrize("start", ["1.0", "-0.1", "0.4"])
def test_an_invalid_prior_start_is_rejected(train, vae, tmp_path, start):
    without = ["model.prior.rank=0"] if start == "0.4" else []
    with pytest.raises(UserError, match=f"model.prior.start={start}: "):
        train(tmp_path, *CASES, f"model.vae_ckpt={vae}", f"model.prior.start={start}", *without)


def further(run: SimpleNamespace, folder: Path, checkpoint: str) -> Path:
    """A folder of runs with a copy of a run that ended at one of its checkpoints."""
    shutil.copytree(run.folder.parent, folder / run.folder.parent.name)
    (folder / run.folder.parent.name / "checkpoints" / checkpoint).replace(
        folder / run.folder.parent.name / "checkpoints" / "last.ckpt"
    )
    return folder


def test_a_started_prior_stays_in_a_longer_training(run, train, vae, tmp_path):
    longer = ["model.train_num_steps=8", "model.prior.start=0.9", "model.resume=auto", "model.resume_changed=true"]
    folder = train(further(run(UNKNOWN), tmp_path, "saved4.ckpt"), *CASES, f"model.vae_ckpt={vae}", UNKNOWN, *longer)
    assert [load_pipeline(folder / f"saved{n}.ckpt").prior.config.hidden for n in (6, 8)] == [False] * 2


def test_a_run_before_the_start_of_its_prior_is_no_origin(run, train, tmp_path):
    early = run("model.prior.preconditioning=true", "model.prior.start=0.75").folder / "saved2.ckpt"
    more = [*CASES, "model.allow_seen_patients=true", f"model.init_from={early}"]
    with pytest.raises(UserError, match="saved before its run used the linear prior"):
        train(tmp_path / "more", *more)
    with pytest.raises(UserError, match="model.prior.start=0.4: model.init_from=.* leave it out"):
        train(tmp_path / "more", *more, "model.prior.start=0.4")


@pytest.mark.slow
def test_fine_tuning_keeps_the_regressor_of_its_origin(run, train, tmp_path):
    with_it, without = (run(*options).folder / "last.ckpt" for options in ((UNKNOWN,), (UNKNOWN, WITHOUT)))
    more = [*CASES, "model.vae_ckpt=null", "model.allow_seen_patients=true", UNKNOWN]
    again = last(train(tmp_path / "more", *more, f"model.init_from={with_it}"))
    assert torch.equal(again.pose_regressor.weight, load_pipeline(with_it).pose_regressor.weight)
    for origin, asked, had in ((with_it, "false", "with"), (without, "true", "without")):
        with pytest.raises(UserError, match=f"model.pose_regressor={asked}: .* was trained {had} it"):
            train(tmp_path / had, *more, f"model.init_from={origin}", f"model.pose_regressor={asked}")


def test_an_interrupted_run_equals_an_uninterrupted_one(run, train, vae, tmp_path):
    whole = run(UNKNOWN)
    parts = further(whole, tmp_path, "saved2.ckpt")
    resumed = last(train(parts, *CASES, f"model.vae_ckpt={vae}", UNKNOWN, "model.resume=auto"))
    for name, value in last(whole.folder).denoiser.state_dict().items():
        assert torch.equal(value, resumed.denoiser.state_dict()[name]), name


def test_too_few_patients_are_refused_before_latents_are_encoded(train, vae, tmp_path, monkeypatch):
    monkeypatch.setattr("train.generator.build_data.LatentData", lambda *_: pytest.fail("latents are encoded"))
    with pytest.raises(
        UserError, match="2 training cases of 2 patients: the linear prior needs 3 patients; give more"
    ):
        train(tmp_path, *CASES, "dataset.train=2", f"model.vae_ckpt={vae}")
