"""Laws of distillation: what a student learns, what stays, and whom it has seen."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ddpm_parts import EXTENT, module
from forked_command import run_command
from hydra import compose, initialize_config_dir
from torch import nn

from common.errors import UserError
from common.files import ROOT, sha256
from dataset.imaging.geometry import make_pose
from ddpm.checkpoint.load import load_pipeline
from ddpm.conditioning.condition import Condition
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.sample_noise import SampleNoise
from ddpm.diffusion.samplers import make_sampler
from ddpm.pipeline import XrayToCTPipeline
from train.generator.distillation import END, follow, learned_timesteps, make_student, timesteps, trajectory_loss
from train.generator.distillation_data import training_cases
from train.generator.distillation_pairs import Pairs, draw_noise, record_all
from train.generator.distillation_training import Checkpoints, Schedule, distance_to_teacher, learn
from train.run.checkpoint_io import LAST

OBJECTIVE = NoiseObjective(prediction="sample")
SHAPE = (4, 8, 8, 8)


def teacher(steps: int = 4, **unet) -> XrayToCTPipeline:
    torch.manual_seed(0)
    condition = {"channels": 4, "embedding_dim": 32}
    denoiser = UNet3D(4, dim=8, dim_mults=(1, 2), condition=condition, blocks=1, head_dim=8, **unet)
    torch.nn.init.normal_(denoiser.out.weight, std=0.2)
    made = module(denoiser=denoiser, objective=OBJECTIVE).pipeline()
    return made.set_sampler("DPMSolverMultistepScheduler", steps)


class Xrays:
    """Cases without volumes."""

    def __len__(self) -> int:
        return 3

    def condition(self, index: int, step: int = -1) -> dict:
        image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(index))
        spacing = torch.tensor(EXTENT) / 32.0
        return {"xray": image, "pose": make_pose(EXTENT)[None], "spacing": spacing}


def test_a_student_of_as_many_steps_starts_as_its_teacher():
    made = teacher(steps=4)
    student = make_student(made, 4, Path("teacher.ckpt"))
    pairs, checked = record_all(made, learned_timesteps(student), Xrays(), 4, seed=1, batch_size=4)
    noise, condition, wanted = pairs.rows([0, 3], torch.device("cpu"))
    with torch.no_grad():  # states are stored in float16, networks may run in bfloat16
        assert float(trajectory_loss(follow(student, noise, condition), wanted)) < 1e-3
        found, expected = follow(student, noise, condition), follow(made, noise, condition)
    assert found.keys() == expected.keys() and float(trajectory_loss(found, expected)) == 0.0
    measured = distance_to_teacher(student, checked, batch_size=4)
    assert measured["error"] < 1e-3 and abs(measured["spread"] - 1.0) < 1e-3
    assert not torch.allclose(wanted[END][0], wanted[END][1])


def test_trajectories_are_those_of_the_samples_of_the_pipeline():
    made, case = teacher(steps=3), Xrays().condition(0)
    clean = []
    place = {"pose": case["pose"][None], "extent": torch.tensor([EXTENT]), "allow_any_picture": True}
    made(case["xray"][None], seed=5, preview=lambda step, latents: clean.append(latents), **place)
    condition = made.condition(case["xray"][None], case["pose"][None], torch.tensor([EXTENT]), SHAPE[1:])
    noise = SampleNoise(5, ["0"], [0], True).start(SHAPE)
    torch.testing.assert_close(follow(made, noise, condition)[END], clean[-1], atol=1e-4, rtol=1e-4)


class Linear(nn.Module):
    """Predicts clean latents as a multiple of the noisy ones, with a factor for each timestep."""

    device = torch.device("cpu")

    def __init__(self, factors):
        super().__init__()
        self.factors = nn.Parameter(factors.clone())

    def forward(self, latents, timestep):
        return self.factors[int(timestep)] * latents


def gaussian_pipeline(deviation: float, steps: int):
    """The exact denoiser of N(0, deviation²) with the sampler of the pipeline."""
    signal, noise = (level.flatten() for level in NoiseSchedule(OBJECTIVE).levels(torch.arange(1000)))
    factors = signal * deviation**2 / (signal.square() * deviation**2 + noise.square())
    denoiser = Linear(factors)
    scheduler = make_sampler("DPMSolverMultistepScheduler", OBJECTIVE.scheduler())
    return SimpleNamespace(
        denoiser=denoiser,
        scheduler=scheduler,
        steps=steps,
        guidance_scale=1.0,
        predict=lambda latents, t, condition, guidance: denoiser(latents, t),
    )


@pytest.mark.parametrize(("steps", "untrained"), [(1, 0.5), (2, 0.5), (4, 0.8)])  # largest share of the spread
def test_the_student_learns_the_map_of_the_probability_flow(steps, untrained):
    """The flow maps noise ε to the sample deviation · ε, with every state of its marginal distribution."""
    deviation, count = 0.6, 16
    many, student = gaussian_pipeline(deviation, 100), gaussian_pipeline(deviation, steps)
    noise = draw_noise((1, 4, 4, 4), 0, range(count))
    with torch.no_grad():
        states = follow(many, noise, None)
        before = follow(student, noise, None)[END]
    assert float(before.std() / noise.std()) < untrained * deviation
    pairs = Pairs(Condition(torch.zeros(count, 1)), {t: states[t] for t in learned_timesteps(student)}, seed=0)
    learn(student, pairs, Schedule(batches=300, batch_size=8, lr=2e-2, warmup=5))
    found = follow(student, noise, None)
    torch.testing.assert_close(found[END].detach(), deviation * noise, atol=0.03, rtol=0.03)
    signal, level = (part.flatten() for part in NoiseSchedule(OBJECTIVE).levels(torch.tensor(timesteps(student))))
    marginal = (signal.square() * deviation**2 + level.square()).sqrt()
    for place, t in enumerate(timesteps(student)):
        assert float(found[t].detach().std() / noise.std()) == pytest.approx(float(marginal[place]), rel=0.03)


def test_gradients_reach_the_student_and_never_the_teacher():
    made = teacher(steps=4)
    student = make_student(made, 2, Path("teacher.ckpt"))
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in made.networks.items()}
    pairs, _ = record_all(made, learned_timesteps(student), Xrays(), 4, seed=1, batch_size=4)
    losses = []
    learn(student, pairs, Schedule(batches=8, batch_size=2, lr=1e-3, warmup=1), lambda _, loss: losses.append(loss))
    assert len(losses) == 8 and sum(losses[4:]) < sum(losses[:4])
    for name, part in made.networks.items():
        assert all(torch.equal(value, before[name][key]) for key, value in part.state_dict().items())
    assert all(parameter.grad is None for parameter in made.denoiser.parameters())
    changed = [not torch.equal(v, before["denoiser"][k]) for k, v in student.denoiser.state_dict().items()]
    assert sum(changed) > 0.9 * len(changed)
    assert all(getattr(student, name) is part for name, part in made.networks.items() if name != "denoiser")


def test_a_student_of_four_steps_evaluates_the_denoiser_four_times():
    made = teacher(steps=8)
    student = make_student(made, 4, Path("teacher.ckpt"))
    pairs, _ = record_all(made, learned_timesteps(student), Xrays(), 4, seed=1, batch_size=4)
    calls, losses = [], []
    student.denoiser.register_forward_hook(lambda *_: calls.append(1))
    noise, condition, _ = pairs.rows([0, 1], torch.device("cpu"))
    with torch.no_grad():
        follow(student, noise, condition)
    assert len(calls) == 4 and timesteps(student) == timesteps(made)[::2]
    learn(student, pairs, Schedule(batches=8, batch_size=2, lr=1e-3, warmup=1), lambda _, loss: losses.append(loss))
    assert sum(losses[4:]) < sum(losses[:4])


def test_a_resumed_distillation_gives_the_weights_of_one_without_interruption(tmp_path):
    made, stopped = teacher(steps=4), tmp_path / "stopped"
    learned = learned_timesteps(make_student(made, 2, Path("teacher.ckpt")))
    pairs, _ = record_all(made, learned, Xrays(), 4, seed=1, batch_size=4)

    def run(folder, resumed=None, report=None, fingerprint="0" * 64):
        student = make_student(made, 2, Path("teacher.ckpt"))
        kept = Checkpoints(folder, 2, fingerprint, student.protocol["distilled"], resumed)
        learn(student, pairs, Schedule(batches=5, batch_size=2, lr=1e-3, warmup=1), report, kept)
        return student.denoiser.state_dict()

    def stop(number, _):
        if number == 3:
            raise KeyboardInterrupt

    whole, numbers = run(tmp_path / "whole"), []
    with pytest.raises(KeyboardInterrupt):
        run(stopped, report=stop)
    found = run(stopped, stopped / LAST, lambda number, _: numbers.append(number))
    assert numbers == [3, 4, 5] and all(torch.equal(found[key], value) for key, value in whole.items())
    again = run(stopped, stopped / LAST, stop)  # it has no batch left
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    with pytest.raises(UserError, match="checkpoint: another teacher than .*, which was teacher.ckpt; give that one"):
        run(stopped, stopped / LAST, fingerprint="1" * 64)


def test_the_student_of_a_preconditioned_teacher_sees_pure_noise():
    preconditioning = {"timesteps": 1000, "schedule": OBJECTIVE.schedule, "zero_terminal_snr": True}
    denoiser = UNet3D(4, dim=8, dim_mults=(1, 2), blocks=1, head_dim=8, condition={"embedding_dim": 32},
                      prior={"residual": True, "preconditioning": preconditioning})  # fmt: skip
    torch.nn.init.normal_(denoiser.out.weight, std=0.2)
    made = module(denoiser=denoiser, objective=OBJECTIVE).pipeline().set_sampler("DPMSolverMultistepScheduler", 4)
    student = make_student(made, 2, Path("teacher.ckpt"))
    inputs = {"timestep": torch.tensor([999]), "embedding": torch.zeros(1, 32)}
    inputs |= {"prior": torch.zeros(1, *SHAPE), "prior_std": torch.ones(1, *SHAPE)}
    with torch.no_grad():
        taught, learned = (
            [one.denoiser(sample=draw_noise(SHAPE, 0, [k]), **inputs) for k in range(2)] for one in (made, student)
        )
    assert torch.equal(*taught) and not torch.allclose(*learned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.set_sampler("DPMSolverMultistepScheduler", 5), "steps=2: the 5 steps .* give a divisor of 5"),
        (lambda p: p.set_sampler("DDPMScheduler", 4), "draws noise at every step"),
        (lambda p: p.denoiser.register_to_config(regression=True), "regression model"),
        (lambda p: p.register_to_config(protocol={**p.protocol, "distilled": {}}), "distilled already"),
    ],
)
def test_a_teacher_that_cannot_be_followed_is_refused_in_one_line(change, message):
    made = teacher()
    change(made)
    with pytest.raises(UserError, match=message) as error:
        make_student(made, 2, Path("teacher.ckpt"))
    assert "\n" not in str(error.value)


def test_the_student_has_seen_the_patients_of_its_teacher_and_of_its_data(tmp_path):
    words = ["dataset.train=2", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
             "dataset.xray_size=[32,32]", f"dataset.cache_dir={tmp_path}", "dataset.prepare_workers=1"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        cfg = compose("distill", words)
    other = {"seed": 99, "version": 1, "test_from": 20_000_000, "split": {"train": 5, "val": 1, "test": 1}}
    seen = {"train": ["0123456789ab"], "val": [], "phantoms": [other], "unknown": []}
    known = {"window": [-1000.0, 1000.0], "volume_size": [16, 16, 16], "extent": list(EXTENT), "lung_box": None}
    made = SimpleNamespace(protocol={**known, "spacing": [20.0, 16.0, 22.0], "seen": seen})
    cases, entries = training_cases(cfg, made, tmp_path / "teacher.ckpt")
    assert len(cases) == 2 and entries["seen"]["train"] == ["0123456789ab"] and "patients_sha256" not in entries
    assert [one["seed"] for one in entries["seen"]["phantoms"]] == [cfg.dataset.seed, 99]
    ours = entries["seen"]["phantoms"][0]
    taught = {**ours, "test_from": 0, "split": {"train": 1 << 30, "val": 0, "test": 0}}
    made.protocol["seen"] = {**seen, "phantoms": [taught]}
    with pytest.raises(UserError, match="was trained on .* patients to be evaluated"):
        training_cases(cfg, made, tmp_path / "teacher.ckpt")


@pytest.mark.slow
def test_the_command_writes_a_model_that_every_command_loads(train, vae, tmp_path):
    words = ["dataset=phantom", "dataset.train=4", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]"]
    folder = train(tmp_path / "run", *words, f"model.vae_ckpt={vae}", "model.conditioning.drop=0")
    checkpoint, output = folder / "last.ckpt", tmp_path / "fast.safetensors"
    options = ["steps=1", "sampler.steps=4", "trajectories=6", "batches=3", "batch_size=2", "device=cpu",
               f"model.results_folder={tmp_path / 'runs'}"]  # fmt: skip
    done = run_command("train/distill.py", f"checkpoint={checkpoint}", f"output={output}", *options)
    assert done.returncode == 0, done.stderr
    assert "32 trajectories that it has not seen" in done.stdout and done.stdout.rstrip().endswith(str(output))
    found, before = load_pipeline(output), load_pipeline(checkpoint)
    assert found.steps == 1 and found.protocol["distilled"]["teacher"]["sha256"] == sha256(checkpoint)
    assert found.protocol["seen"]["phantoms"] == before.protocol["seen"]["phantoms"]
    assert found.networks.keys() == before.networks.keys()
    again = run_command("train/distill.py", f"checkpoint={output}", *options[1:])
    assert again.returncode == 1 and "distilled" in again.stderr and "Traceback" not in again.stderr
    resumed = [f"checkpoint={checkpoint}", f"output={tmp_path / 'again.safetensors'}", *options, "model.resume=auto"]
    changed = run_command("train/distill.py", *resumed, "lr=1e-3")
    assert (
        changed.returncode == 1 and "lr was 0.00015, is 0.001" in changed.stderr and "Traceback" not in changed.stderr
    )
    same = run_command("train/distill.py", *resumed)
    assert same.returncode == 0 and "batch 3" not in same.stdout, same.stderr
    assert (tmp_path / "again.safetensors").read_bytes() == output.read_bytes()
    place = [f"checkpoint={output}", "metrics=[psnr]", "device=cpu", "samples=2"]
    scored = run_command("evaluation/evaluate.py", *place, "sampler=fast", f"output={tmp_path / 'scores'}")
    assert scored.returncode == 0, scored.stderr
    wrong = run_command("evaluation/evaluate.py", *place, f"output={tmp_path / 'other'}")
    assert wrong.returncode == 1 and "set sampler=fast" in wrong.stderr
