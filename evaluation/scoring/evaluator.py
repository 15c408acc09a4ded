"""One evaluation from end to end: generate, fit the baselines, score, draw, and write it all into a folder."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from common.environment import machine
from common.errors import UserError
from common.files import sha256
from dataset.imaging.geometry import extent_mm
from dataset.manifest.table import SPLITS
from evaluation.distribution.distances import compare_populations, population
from evaluation.generation.sample import sample_volumes
from evaluation.generation.xray_inputs import told_extents
from evaluation.metrics.lpips import load_lpips
from evaluation.metrics.totalsegmentator import read_organs
from evaluation.protocol import comparability as protocol
from evaluation.protocol.data_checks import check_protocol, own_split
from evaluation.protocol.leakage import refuse_seen
from evaluation.reporting.html_report import write_report
from evaluation.scoring import summary as results
from evaluation.scoring.baselines import Baselines
from evaluation.scoring.evaluation_pictures import file_name, write_pictures
from evaluation.scoring.score_cases import metric_names, score_cases
from evaluation.statistics.patient_bootstrap import derangement

log = logging.getLogger(__name__)

METHODS = ("model", "model_sample", *Baselines.names, "shuffled_xray")
HELD_CASES = 64
DEFINITIONS = {
    "shuffled_xray": "the volume generated from another patient's X-ray (derangement by seed) against this truth",
    "differences": "model minus the other on the same cases; p by sign flips of patients, Holm over the methods",
}


def evaluate(
    datamodule,
    pipeline,
    output: Path,
    samples: int = 4,
    seed: int = 0,
    batch_size: int = 16,
    split: str = "test",
    cases: int | None = None,
    nifti: int = 8,
    methods=METHODS,
    checkpoint: Path | None = None,
    runs: dict[str, str | None] | None = None,
    metrics="default",
    registration: str = "none",
    extractor=None,
    lpips: str | None = None,
    totalsegmentator: str | None = None,
    allow_seen_patients: bool = False,
) -> dict:
    """Generates, scores and writes everything into `output`; gives back what `metrics.json` holds.

    Args:
        datamodule: `CTDataModule` after `setup()`.
        pipeline: `XrayToCTPipeline`, its sampler set.
        samples: volumes per X-ray; the model's estimate is their mean.
        cases: judge only the first so many cases of the split.
        nifti: cases that get NIfTI and GIF files.
        checkpoint: the file behind `pipeline`, for the protocol.
        runs: training folders by stage, whose `metrics.csv` become loss curves.
        metrics: a set of `evaluation.scoring.score_cases.SETS` or names; PSNR is always among them.
        registration: `rigid` scores every volume a second time, laid onto the truth first, into `registered_rigid/`.
        extractor: one of `evaluation.distribution.feature_extractors`, for distances of distributions.
        lpips: file with the weights of AlexNet, for LPIPS.
        totalsegmentator: folder that holds TotalSegmentator's output for each of the files in `nifti/`.
        allow_seen_patients: judge cases outside the split `train` even if the model has trained on their patients.

    Raises:
        UserError: data of another window or size than the model was trained on, patients that it has trained on, or
            a setting out of range.
    """
    clock, timings = perf_counter(), {}

    def lap(stage: str) -> None:
        nonlocal clock
        now = perf_counter()
        timings[stage], clock = round(now - clock, 2), now

    data, window = datamodule.protocol(), pipeline.window
    check_protocol(data, pipeline.protocol)
    chosen, count, methods = _check_settings(datamodule, split, cases, methods)
    metrics = tuple(dict.fromkeys(("psnr", *metric_names(metrics))))  # cases are ranked by their PSNR
    moves = {"none": None} | _registration(registration)
    tools = {"drr": data.get("drr")} | ({"lpips": load_lpips(lpips)} if lpips else {})
    rows = chosen.rows.iloc[:count]
    seen = None  # who asks for the training split knows what it is
    if split != "train":
        remedy = "give the dataset.fold and the split that it was trained with, or another checkpoint"
        model = f"checkpoint={checkpoint}"
        seen = refuse_seen(rows, pipeline.protocol, data, model, remedy, allow_seen_patients)
    output.mkdir(parents=True, exist_ok=True)
    ids, patients = [str(i) for i in rows["id"]], rows["patient"].astype(str).to_numpy()
    inputs = _Cases(_with_organs(chosen, ids, totalsegmentator), count)
    xrays = torch.stack([case["xray"].float().unsqueeze(1) for case in inputs])
    poses = torch.stack([case["pose"] for case in inputs])
    size = tuple(data["volume_size"])
    own = torch.tensor([extent_mm(size, case["spacing"]) for case in inputs])
    extents = told_extents(poses, own, pipeline)
    partner = derangement(patients, seed) if "shuffled_xray" in methods else None
    if "shuffled_xray" in methods and partner is None:
        log.warning("shuffled_xray is left out: split %s holds one patient only", split)
    lap("reading")

    with TemporaryDirectory(dir=output, prefix=".volumes_") as scratch:
        # On disk, mapped: small sets stay in the page cache, large ones need no memory.
        generated = _mapped(Path(scratch) / "generated.npy", (count, 2, *size))
        spread = np.zeros(count)
        for part, volumes in sample_volumes(pipeline, xrays, poses, ids, samples, batch_size, seed, extents):
            generated[part.start : part.stop, 0] = volumes.mean(dim=1)
            generated[part.start : part.stop, 1] = volumes[:, 0]
            spread[part.start : part.stop] = volumes.std(dim=1, correction=0).mean(dim=(1, 2, 3))
        lap("generation")

        named = [name for name in Baselines.names if name in methods]
        baselines = Baselines(datamodule.train, datamodule.val, window) if named else None
        predicted = _mapped(Path(scratch) / "baselines.npy", (count, len(named), *size)) if named else None
        together = max(1, 2**28 // (3 * int(np.prod(size))))  # a gigabyte of float32 at a time
        for start in range(0, count if named else 0, together):
            volumes = baselines.predict(xrays[start : start + together])
            for column, name in enumerate(named):
                predicted[start : start + together, column] = volumes[name]
        lap("baselines")

        def volumes_of(index: int) -> dict[str, torch.Tensor]:
            found = {"model": generated[index, 0], "model_sample": generated[index, 1]}
            found |= {name: predicted[index, column] for column, name in enumerate(named)}
            if partner is not None:  # what the model made of the partner's X-ray, judged against this case
                found["shuffled_xray"] = generated[partner[index], 0]
            return {name: found[name] for name in methods if name in found}

        def scores_under(moved: str) -> pd.DataFrame:
            scores = score_cases(
                inputs, volumes_of, window, patients, ids, metrics=metrics, tools=tools, registration=moves[moved]
            )
            scores.loc[scores.method == "model", "spread_hu"] = spread
            return scores

        scores = {name: scores_under(name) for name in moves}
        populations = _populations(extractor, inputs, generated, window)
        lap("scoring")
        write_pictures(output, inputs, ids, generated, scores["none"], window, nifti)
        lap("pictures")

    shared = {
        "window": window,
        "volume_size": size,
        "spacing": data.get("spacing"),
        "samples": samples,
        "split": split,
        "patients": list(patients),
        "data": data,
        "data_sha256": protocol.hash_cases(inputs, ids),
        "metrics": metrics,
        "seed": seed,
    }
    origin = {
        "checkpoint": None if checkpoint is None else {"file": str(checkpoint), "sha256": sha256(checkpoint)},
        **pipeline.describe(),
        "seed": seed,
        "seen_patients": seen,
        "estimators": _estimators(methods, samples),
        "extractor": extractor.describe() if extractor is not None else None,
        "baselines": baselines.describe() if baselines else None,
        "machine": machine(),
        "timings_s": timings,
    }
    found = {}
    for name, table in scores.items():
        stated = protocol.describe(**shared, registration=name) | origin
        stated["definitions"] |= DEFINITIONS
        stated["not_measured"] = table.attrs["not_measured"]
        found[name] = {"protocol": stated} | results.summarise(table, seed) | {"distribution": populations}
        # Each file follows one protocol, so that compare.py never meets both in one.
        folder = output if name == "none" else output / f"registered_{name}"
        folder.mkdir(exist_ok=True)
        table.round(6).to_csv(folder / "cases.csv", index=False)
        results.write_metrics(folder / "metrics.json", found[name])
    write_report(output, runs or {})
    return found["none"]


class _Cases:
    """The first cases of a data set; a large set is read again each time, for it cannot be held."""

    def __init__(self, read: Callable[[int], dict], count: int):
        self._read, self._count = read, count
        self._held = [self._read(i) for i in range(count)] if count <= HELD_CASES else None

    def __iter__(self):
        return (self.case(i) for i in range(self._count))

    def case(self, index: int) -> dict:
        return self._read(index) if self._held is None else self._held[index]


def _registration(name: str) -> dict[str, Callable]:
    """What lays a prediction onto the truth, by its name in the protocol; empty for `none`."""
    if name not in protocol.REGISTRATIONS:
        raise UserError(f"registration={name}: choose {' or '.join(protocol.REGISTRATIONS)}")
    if name == "none":
        return {}
    from evaluation.scoring.registration import register_rigid

    return {name: lambda prediction, truth, spacing: register_rigid(prediction, truth, spacing)[0]}


def _with_organs(dataset, ids: list[str], folder: str | None) -> Callable[[int], dict]:
    """How a case is read: with TotalSegmentator's masks of the true and the generated file where there are some."""
    if folder is None:
        return dataset.case
    if not Path(folder).is_dir():
        raise UserError(f"totalsegmentator={folder}: no such folder; give one with TotalSegmentator's output folders")

    def read(index: int) -> dict:
        case, name = dataset.case(index), file_name(ids[index])
        geometry = tuple(case["ct"].shape), case["spacing"].tolist(), case["centre"].tolist()
        places = {"truth": f"{name}_true", "model": f"{name}_generated"}
        return case | {"organs": {key: read_organs(Path(folder) / part, *geometry) for key, part in places.items()}}

    return read


def _populations(extractor, cases, generated, window) -> dict | None:
    """Distances of the generated volumes to the true ones as populations; None without an extractor."""
    if extractor is None:
        return None
    spacings = [case["spacing"].tolist() for case in cases]
    clipped = ((case["ct"].float().clamp(window.low, window.high), s) for case, s in zip(cases, spacings, strict=True))
    real = population(extractor, clipped)
    return {
        name: compare_populations(population(extractor, zip(generated[:, k], spacings, strict=True)), real)
        for k, name in enumerate(("model", "model_sample"))
    }


def _check_settings(datamodule, split: str, cases: int | None, methods) -> tuple:
    if split not in SPLITS:
        raise UserError(f"split={split}: choose train, val or test")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or "model" not in methods:
        raise UserError(f"methods={list(methods)}: choose model and any of {', '.join(METHODS[1:])}")
    if cases is not None and cases < 1:
        raise UserError(f"cases={cases}: give at least 1, or null for all")
    chosen = own_split(datamodule, split)
    return chosen, min(len(chosen), cases or len(chosen)), [name for name in METHODS if name in methods]


def _mapped(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape))


def _estimators(methods, samples: int) -> dict[str, str]:
    """What the volumes of each method are: two rows are alike only if this is."""
    stated = dict.fromkeys(("model", "shuffled_xray"), protocol.estimator(samples))
    stated["model_sample"] = protocol.estimator(1)
    return {name: stated.get(name, protocol.POINT) for name in methods}
