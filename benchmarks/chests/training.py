"""Trainings of one fold by the project's own commands: a fixed number of steps; a finished one is not repeated."""

import json
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chests.peer_training import milliseconds_a_step
from benchmarks.chests.variants import POPULATIONS, Population, Row, recipe
from benchmarks.fidelity.run import run
from benchmarks.timing import machine_name
from common.files import newest_checkpoint
from evaluation.scoring.frozen_protocol import FrozenProtocol

AUTOENCODER_SHARE = 0.1  # of the minutes of a diffusion row; the denoiser has the rest
CALIBRATION_STEPS = 60
NEVER = 1_000_000  # batches between validations and pictures
FEW = "+trainer.limit_val_batches=2"  # of the one validation at the end
AUTOENCODER = {
    64: ["model.n_hiddens=32", "model.crop=[32,32,32]"],
    128: [
        "model.n_hiddens=48",
        "model.downsample=8",
        "model.patch=4",
        "model.embedding_dim=16",
        "model.crop=[64,64,64]",
    ],
}
AUTOENCODER_COMMON = [
    "model.n_res_blocks=1",
    "model.batch_size=1",
    "model.train_lr=2.0e-3",
    "model.warmup_steps=15",
    f"model.losses.adversarial.start={NEVER}",
    f"model.validate_every={NEVER}",
    f"model.picture_every={NEVER}",
    "model.checkpoint_every=500",
    FEW,
]
# of every command and data set here, as the frozen X-rays have none; no part of the recorded recipes, which are older
NOISE_FREE = "dataset.drr_photons=null"
QUIET = [f"model.validate_every={NEVER}", "model.save_and_sample_every=1000", FEW]


@dataclass(frozen=True)
class Steps:
    """Batches of each training."""

    autoencoder: int
    denoiser: int
    peer: int


def data_overrides(options: Namespace, protocol: FrozenProtocol, patient: str, population: Population) -> list[str]:
    """Overrides of a data set whose training cases are those of `population` without `patient`.

    Patients beyond the number of parents join the tested one in the test split, so nothing learns from them.
    """
    place = protocol.patients.index(patient)
    others = protocol.patients[place + 1 :] + protocol.patients[:place]  # each fold leaves other parents out
    first, last = population.skipped, population.skipped + (population.parents or len(others))
    left_out = others[:first] + others[last:]
    found = [*options.data, f"dataset.volume_size=[{','.join([str(options.size)] * 3)}]"]
    found += [f"dataset.test_patients=[{','.join([patient, *left_out])}]", f"dataset.morphs={options.morphs}"]
    found += [f"dataset.phantoms={options.phantoms}"] if population.phantoms else []
    return [*found, *population.overrides]


def phantom_overrides(options: Namespace) -> list[str]:
    """Overrides of the phantoms of `phantoms_first`."""
    counts = {"train": options.phantoms, "val": 2, "test": 2}
    found = ["dataset=phantom", f"dataset.volume_size=[{','.join([str(options.size)] * 3)}]"]
    return [*found, *(f"dataset.{split}={count}" for split, count in counts.items())]


def planned(options: Namespace, folder: Path, data: list[str], vqgan: list[str]) -> Steps:
    """The steps that the options name, else those of `options.minutes` by short runs, which `plan.json` keeps.

    Nothing else may run meanwhile. `vqgan` are the overrides of the autoencoder of the short run.
    """
    if options.steps is not None:
        return Steps(options.vqgan_steps or options.steps, options.steps, options.peer_steps or options.steps)
    file = folder / "plan.json"
    if not file.exists():
        measured, runs = {"machine": machine_name()}, folder / "calibration"
        short = [f"model.train_num_steps={CALIBRATION_STEPS}", f"model.results_folder={runs / 'vqgan'}"]
        measured["autoencoder"] = _median_ms(
            run("train/train_vqgan.py", NOISE_FREE, *data, *vqgan, *short, capture=True)
        )
        short = [f"model.train_num_steps={CALIBRATION_STEPS}", f"model.results_folder={runs / 'ddpm'}", *QUIET]
        short.append(f"model.vqgan_ckpt={newest_checkpoint(runs / 'vqgan')}")
        output = run("train/train_ddpm.py", NOISE_FREE, *data, *recipe(options.size), *short, capture=True)
        measured["denoiser"] = _median_ms(output)
        measured["peer"] = milliseconds_a_step(options.size)
        file.write_text(json.dumps(measured))
    measured, shares = json.loads(file.read_text()), {"autoencoder": AUTOENCODER_SHARE, "peer": 1.0}
    shares["denoiser"] = 1.0 - AUTOENCODER_SHARE
    budget = 60_000 * options.minutes
    return Steps(**{name: max(1, int(budget * share / measured[name])) for name, share in shares.items()})


def trained_vqgan(options: Namespace, folder: Path, population: str, data: list[str], steps: int) -> Path:
    """Checkpoint of the autoencoder that all diffusion rows of a population share."""
    overrides = [*data, *AUTOENCODER_COMMON, *AUTOENCODER[options.size], f"model.seed={options.seed}"]
    where = "model.results_folder", "model.train_num_steps"
    return _trained("train/train_vqgan.py", folder / f"vqgan_{population}", overrides, where, steps)


def trained_ddpm(
    options: Namespace, folder: Path, name: str, row: Row, data: list[str], vqgan: Path | None, steps: int
) -> Path:
    """Checkpoint of a diffusion row; with `phantoms_first` after half of the steps on phantoms.

    A row that is fine-tuned starts from the finished training of its other row in `folder`; SystemExit without it.
    """
    common = [*recipe(options.size), *row.train, *options.train, *QUIET, f"model.seed={options.seed}"]
    where, start = ("model.results_folder", "model.train_num_steps"), [f"model.vqgan_ckpt={vqgan}"]
    if row.phantoms_first:
        first = [*phantom_overrides(options), *common, *start]
        first = _trained("train/train_ddpm.py", folder / f"{name}_first", first, where, max(1, steps // 2))
        start, steps = [f"model.init_from={first}"], max(1, steps - steps // 2)
    if row.tuned is not None:
        done = folder / row.tuned / "trained.json"
        if not done.exists():
            raise SystemExit(f"{done}: missing; --rows {row.tuned} first, whose weights {name} starts from")
        # the test split also holds the patients of the other row, on which nothing is scored
        start = [f"model.init_from={json.loads(done.read_text())['checkpoint']}", "model.allow_seen_patients=true"]
    return _trained("train/train_ddpm.py", folder / name, [*data, *common, *start], where, steps)


def population_of(row: Row) -> Population:
    """The training cases of a row."""
    return POPULATIONS[row.population]


def _trained(script: str, home: Path, overrides: list[str], where: tuple[str, str], steps: int) -> Path:
    """Checkpoint of a training in `home`, made or resumed; SystemExit if `home` has another training."""
    done = home / "trained.json"
    asked = {"script": script, "overrides": overrides, "steps": steps}
    if not done.exists():
        home.mkdir(parents=True, exist_ok=True)
        runs = home / "runs"
        resume = "auto" if newest_checkpoint(runs) else "null"
        run(script, NOISE_FREE, *overrides, f"{where[0]}={runs}", f"{where[1]}={steps}", f"model.resume={resume}")
        done.write_text(json.dumps({**asked, "checkpoint": str(newest_checkpoint(runs))}))
    found = json.loads(done.read_text())
    if {key: found[key] for key in asked} != asked:
        raise SystemExit(
            f"{home}: trained by another recipe or length than the present one; remove it or give --output"
        )
    return Path(found["checkpoint"])


def _median_ms(output: str) -> float:
    return float(re.search(r"median ([\d.]+) ms a batch", output)[1])
