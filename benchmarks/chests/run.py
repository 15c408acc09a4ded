"""Trains and scores rows of the chest benchmark: leave one patient out, in parts, resumable.

`python benchmarks/chests/run.py --folds 0 --rows model baselines`, in five minutes of two cores with
`--steps 200 --morphs 60`.

A finished training or row is not repeated. Folds are the patients of the protocol in order: those of the selection
stage first, on which ideas are chosen; the others need `--stage held_out` and are scored once, at the end.
"""

import argparse
import json
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import pandas as pd  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra.utils import instantiate  # noqa: E402

from benchmarks.chests import fold, predict, table  # noqa: E402
from benchmarks.chests.peer_training import train_peer  # noqa: E402
from benchmarks.chests.sheet import patient_sheet, save_volumes  # noqa: E402
from benchmarks.chests.training import (  # noqa: E402
    AUTOENCODER,
    AUTOENCODER_COMMON,
    NOISE_FREE,
    Steps,
    data_overrides,
    planned,
    population_of,
    trained_ddpm,
    trained_vqgan,
)
from benchmarks.chests.variants import BASELINES, DIFFUSION, MAIN, PEER, ROWS, SHUFFLED, WEIGHTS  # noqa: E402
from benchmarks.timing import machine_name  # noqa: E402
from dataset.datamodule import CTDataModule, prepared_data  # noqa: E402
from ddpm.checkpoint.load import load_pipeline  # noqa: E402
from evaluation.generation.open_pipeline import PHANTOM_WEIGHTS  # noqa: E402
from evaluation.scoring.baselines import Baselines  # noqa: E402
from evaluation.scoring.frozen_protocol import FrozenProtocol, read_protocol  # noqa: E402

HELD_OUT_MORPHS = ["dataset.morph_seed=1"]  # another seed than that of the training: other morphs of the same parents


def open_data(overrides: list[str], **options) -> CTDataModule:
    """The prepared data of a config in this process."""
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        dataset = compose("train_ddpm", [NOISE_FREE, *overrides]).dataset
    return prepared_data(instantiate(dataset.source), dataset, **options)


def score_row(
    options: Namespace, protocol: FrozenProtocol, patient: str, name: str, home: Path, steps: Steps
) -> tuple[pd.DataFrame, dict]:
    """Trains one row of a fold; returns its scores and its volumes of the first X-ray by method."""
    row, window = ROWS[name], protocol.window
    data = data_overrides(options, protocol, patient, population_of(row))
    own = fold.patient_cases(protocol, patient, options.size)
    sets = [own] if row.kind == WEIGHTS else [own, *_morphs(options, protocol, patient)]
    if row.kind == BASELINES:
        module = open_data(data)
        fitted = Baselines(module.train, _First(module.train, 8), window)
        found = [predict.baselines(fitted, name, cases) for cases in sets]
    elif row.kind == PEER:
        module = open_data(data, keep_gb=4.0)
        network = train_peer(module, home / name / "state.pt", steps.peer, seed=options.seed)
        found = [predict.peer(network, name, cases, window) for cases in sets]
    else:
        checkpoint = PHANTOM_WEIGHTS
        if row.kind == DIFFUSION:
            vqgan = None if row.tuned else trained_vqgan(options, home, row.population, data, steps.autoencoder)
            checkpoint = trained_ddpm(options, home, options.name or name, row, data, vqgan, steps.denoiser)
        pipeline = load_pipeline(checkpoint)
        if row.sampler is not None:
            pipeline.set_sampler(**row.sampler)
        samples = 1 if row.sampler is not None else options.samples
        method = options.name or name if row.kind != WEIGHTS else name
        found = [predict.diffusion(pipeline, method, cases, samples, options.seed) for cases in sets]
        if row.kind == WEIGHTS:
            for part in found:  # only the estimate
                part.volumes = {name: part.volumes[name]}
        elif samples > 1:
            other = protocol.patients[(protocol.patients.index(patient) + 1) % len(protocol.patients)]
            cases = fold.with_xrays_of(own, protocol, other)
            shuffled = predict.diffusion(pipeline, method, cases, samples, options.seed)
            found[0].volumes[method + SHUFFLED] = shuffled.volumes[method]
            found[0].samples[method + SHUFFLED] = shuffled.samples[method]
    scores = pd.concat([fold.score(cases, part, protocol) for cases, part in zip(sets, found, strict=True)])
    return scores, {method: volumes[0] for method, volumes in found[0].volumes.items()}


def _morphs(options: Namespace, protocol: FrozenProtocol, patient: str) -> list[fold.Cases]:
    """Morphs of all parents of a fold that no row has trained on; none with `--unseen-morphs 0`."""
    if options.unseen_morphs == 0:
        return []
    few = Namespace(**{**vars(options), "morphs": options.unseen_morphs})
    data = data_overrides(few, protocol, patient, population_of(ROWS["model"]))
    return [fold.morph_cases(open_data([*data, *HELD_OUT_MORPHS]).train, options.unseen_morphs)]


class _First:
    """The first cases of a data set. Ridge regression needs validation cases; the table chooses the penalty anyway."""

    def __init__(self, cases, count: int):
        self.case, self._count = cases.case, min(count, len(cases))

    def __len__(self) -> int:
        return self._count


def parse(words: list[str] | None = None) -> Namespace:
    """The options; SystemExit for a fold of the other stage or an unknown row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", nargs="+", type=int, help="numbers of the tested patients; by default the stage's")
    parser.add_argument("--rows", nargs="+", default=list(MAIN), help=", ".join(ROWS))
    parser.add_argument("--stage", default="selection", choices=("selection", "held_out"))
    parser.add_argument("--size", type=int, default=64, choices=(64, 128))
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each row and fold")
    parser.add_argument("--steps", type=int, help="batches of the denoiser in place of --minutes")
    parser.add_argument("--vqgan-steps", type=int, help="batches of the autoencoder; by default --steps")
    parser.add_argument("--peer-steps", type=int, help="batches of the peer; by default --steps")
    parser.add_argument("--morphs", type=int, default=600, help="training morphs of a fold")
    parser.add_argument("--unseen-morphs", type=int, default=8, help="scored morphs of the parents, for the gap")
    parser.add_argument("--phantoms", type=int, default=500, help="phantoms of mixed and phantoms_first")
    parser.add_argument("--samples", type=int, default=8, help="samples of the mean")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--data", nargs="+", default=["dataset=chests"], help="overrides of the data set")
    parser.add_argument("--train", nargs="+", default=[], help="further overrides of train_ddpm.py: an idea to try")
    parser.add_argument("--name", help="name of the idea: the row is stored under it")
    parser.add_argument("--protocol", default="chests", help="name or folder of the protocol")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "chests")
    parser.add_argument("--results", type=Path, help="folder of the tables; by default the output folder")
    options = parser.parse_args(words)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"--rows {' '.join(unknown)}: choose from {', '.join(ROWS)}")
    if (options.train or options.name) and (not options.name or len(options.rows) > 1):
        parser.error("--train: name the idea with --name, and give one of --rows")
    options.data += [] if options.size == 64 else ["dataset.xray_size=[128,128]"]
    return options


def main(words: list[str] | None = None) -> dict:
    """Runs the requested rows and folds, then writes all tables."""
    options = parse(words)
    protocol = read_protocol(options.protocol)
    stage = protocol.stages(options.stage)
    chosen = [protocol.patients[i] for i in options.folds] if options.folds is not None else stage
    if wrong := [patient for patient in chosen if patient not in stage]:
        raise SystemExit(f"--folds: {wrong[0]} is not in the stage {options.stage}; give --stage of the patient")
    folder = options.output / str(options.size)
    for patient in chosen:
        home = folder / patient
        (home / "rows").mkdir(parents=True, exist_ok=True)
        for name in options.rows:
            stored = home / "rows" / f"{options.name or name}.csv"
            if stored.exists():
                _expect_same(stored, _facts(options))
                print(f"{stored}: scored already", flush=True)
                continue
            data = data_overrides(options, protocol, patient, population_of(ROWS["model"]))
            steps = planned(options, folder, data, [*AUTOENCODER_COMMON, *AUTOENCODER[options.size]])
            scores, volumes = score_row(options, protocol, patient, name, home, steps)
            save_volumes(stored.with_suffix(".safetensors"), volumes)
            stored.with_suffix(".json").write_text(json.dumps({**_facts(options), "steps": asdict(steps)}, indent=1))
            scores.round(5).to_csv(stored, index=False)  # last: it marks the row as done
    output = options.results or folder
    result = table.write(folder, protocol, output, _facts(options))
    ridge = {patient: f"ridge{predict.AT}{penalty}" for patient, penalty in result["ridge_penalties"].items()}
    sheet = patient_sheet(folder, protocol, options.size, ridge)
    if sheet is not None:
        sheet.save(output / "sheet.png")
    print((output / "results.md").read_text())
    return result


def _expect_same(stored: Path, facts: dict) -> None:
    """Raises SystemExit for a row that was scored with other options."""
    found = json.loads(stored.with_suffix(".json").read_text())
    other = [key for key in {**facts, **found} if key in facts and key != "machine" and found.get(key) != facts[key]]
    if other:
        was = ", ".join(f"{key} was {found.get(key)}, is {facts[key]}" for key in other)
        raise SystemExit(f"{stored}: scored with other options ({was}); remove it, or give --output or --name")


def _facts(options: Namespace) -> dict:
    """What the numbers depend on besides the protocol."""
    budget = f"{options.minutes:g} minutes" if options.steps is None else f"{options.steps} batches"
    keys = ("size", "morphs", "phantoms", "samples", "seed")
    ideas = {"train": " ".join(options.train)} if options.train else {}
    return {**{key: getattr(options, key) for key in keys}, "budget": budget, **ideas, "machine": machine_name()}


if __name__ == "__main__":
    main()
