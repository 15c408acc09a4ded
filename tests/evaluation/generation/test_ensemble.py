"""Several trainings as one generator: who draws which sample, independence of the batch, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from consistent_parts import planted
from ddpm_parts import item, module

from common.errors import UserError
from ddpm.checkpoint.write import export_pipeline
from ddpm.latent import DecoderResidual
from ddpm.latent.decoder_residual import with_residual
from evaluation.generation.ensemble import Ensemble
from evaluation.generation.open_pipeline import open_generator
from evaluation.intervals.prediction_intervals import PredictionIntervals

POSES = torch.stack([item(i)["pose"] for i in range(2)])
XRAYS = torch.stack([item(i)["xray"] for i in range(2)])


def member(seed, **protocol):
    made = module()
    made.protocol |= protocol
    generator = torch.Generator().manual_seed(seed)
    for p in made.trained["denoiser"].parameters():
        if not p.any():
            p.data = 0.02 * torch.randn(p.shape, generator=generator)
    volume = torch.rand(16, 16, 16, generator=generator)
    made.keep_measured(DecoderResidual().fit([(volume + 0.01 * seed, volume, None)]))
    return made.pipeline().set_sampler("DPMSolverMultistepScheduler", 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    return [export_pipeline(member(seed), folder / f"{seed}.safetensors", torch.float32) for seed in (1, 2)]


@pytest.fixture(scope="module")
def ensemble(files):
    return Ensemble([member(1), member(2)], files)


def test_pairs_of_samples_are_divided_in_turn(ensemble):
    drawn = ensemble(XRAYS, num_samples=5, ids=["a", "b"]).volumes
    first = ensemble.members[0](XRAYS, num_samples=3, ids=["a", "b"]).volumes
    second = ensemble.members[1](XRAYS, num_samples=2, ids=["a of training 2", "b of training 2"]).volumes
    assert torch.equal(drawn[:, [0, 1, 4]], first) and torch.equal(drawn[:, [2, 3]], second)
    alone = ensemble(XRAYS[1:], num_samples=5, ids=["b"], batch_size=1).volumes
    assert (alone[0] - drawn[1]).abs().mean() < 1.0  # HU; bfloat16 rounds by the shape of the batch
    assert (drawn[:, 0] - drawn[:, 2]).abs().mean() > 1.0


def test_independent_samples_alternate_and_each_has_the_residual_of_its_member(ensemble):
    ensemble.set_sampler(scheduler="DPMSolverMultistepScheduler", steps=2, antithetic=False)
    assert [ensemble.member_of(number) for number in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    samples = torch.zeros(1, 2, 16, 16, 16)
    added = with_residual(ensemble, samples, ["a"], seed=0)[0].std(dim=(1, 2, 3))
    assert added[1] == pytest.approx(2.0 * float(added[0]), rel=0.1)  # residuals of 0.01 and 0.02 of the range
    ensemble.set_sampler(scheduler="DPMSolverMultistepScheduler", steps=2)


def test_the_disagreement_with_the_xrays_is_that_of_each_sample_and_of_the_first_member(files):
    members = [member(1), member(2)]
    assert Ensemble(members, files)(XRAYS, POSES, num_samples=4).chi2 is None
    for number, one in enumerate(members, start=1):
        one.register_modules(consistency=planted())
        one.consistency.level.fill_(float(number))
    found = Ensemble(members, files)(XRAYS, POSES, num_samples=4, ids=["a", "b"])
    first = members[0](XRAYS, POSES, num_samples=2, ids=["a", "b"])
    second = members[1](XRAYS, POSES, num_samples=2, ids=["a of training 2", "b of training 2"])
    assert found.chi2.shape == (2, 4) and torch.equal(found.first_chi2, first.first_chi2)
    torch.testing.assert_close(found.chi2, torch.cat([first.chi2, second.chi2 / 2.0], dim=1))
    assert not torch.allclose(first.chi2, second.chi2)


def test_guides_without_the_part_are_no_disagreement(files):
    """A model without projection consistency still follows the lungs of a film."""
    guide = SimpleNamespace(update=lambda clean, signal, noise: SimpleNamespace(change=torch.zeros_like(clean)))
    found = Ensemble([member(1), member(2)], files)(XRAYS, num_samples=4, guides=[guide] * 2)
    assert found.chi2 is None and found.first_chi2 is None and found.films is None


def test_the_progress_counts_the_steps_of_all(ensemble):
    steps = []
    ensemble(XRAYS[:1], num_samples=3, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 4) for i in range(1, 5)]


def test_too_few_samples_other_data_and_the_same_file_are_refused(files, ensemble):
    with pytest.raises(UserError, match="samples=2: 2 trainings need at least 3 samples"):
        ensemble(XRAYS, num_samples=2)
    with pytest.raises(UserError, match="trained on other data .*: dataset is other"):
        Ensemble([member(1), member(2, dataset="other")], files)
    with pytest.raises(UserError, match="the same training twice"):
        Ensemble([member(1), member(1)], [files[0], files[0]])
    small = member(1)
    small.latent_encoder.latent_shape = lambda size: (8, 8, 8, 8)
    with pytest.raises(UserError, match=r"latents of \[8, 8, 8, 8\]"):
        Ensemble([member(1), small], files)


def test_files_separated_by_semicolons_are_opened_where_several_are_allowed(files):
    from omegaconf import OmegaConf

    sampler = OmegaConf.create({"scheduler": "DPMSolverMultistepScheduler", "steps": 2})
    names = ";".join(map(str, files))
    opened, path = open_generator(names, "cpu", sampler, several=True)
    assert path == files[0] and [entry["file"] for entry in opened.describe()["ensemble"]] == [str(f) for f in files]
    with pytest.raises(UserError, match="several trainings are for generate.py and evaluate.py"):
        open_generator(names, "cpu", sampler)


def test_intervals_of_one_training_do_not_hold_for_several(ensemble):
    intervals = PredictionIntervals({"file": "x", "sha256": "y"}, {"samples": 20}, 0.9, 0.9, {})
    assert intervals.mismatch("y", {"samples": 20}) is None
    assert "one training" in intervals.mismatch("y", {**ensemble.describe(), "samples": 20})
