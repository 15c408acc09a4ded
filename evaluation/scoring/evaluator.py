"""One evaluation: reads the inputs, generates volumes, predicts the baselines, scores all and writes the results."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.environment import machine
from common.errors import UserError
from common.files import sha256
from dataset.imaging.forward_model import ForwardModel
from evaluation.distribution.distances import compare_populations, population
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, compared_volumes, warn_of_contradictions
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.generation.xray_warnings import MAX_DISTANCE, training_distance
from evaluation.intervals.drawn_samples import DrawnSamples, check_samples
from evaluation.intervals.evidence import evidence_maps
from evaluation.intervals.prediction_intervals import PredictionIntervals, input_shift_decisions
from evaluation.metrics import crps, spread_over_error
from evaluation.metrics.lpips import load_lpips
from evaluation.metrics.organs.totalsegmentator import read_organs
from evaluation.metrics.reprojection import FORWARD_MODEL
from evaluation.protocol import comparability as protocol
from evaluation.protocol.data_checks import check_protocol, own_split
from evaluation.protocol.leakage import check_patient_leakage
from evaluation.scoring.baselines import Baselines
from evaluation.scoring.evaluation_pictures import check_file_names, file_name, write_pictures
from evaluation.scoring.registration import rigidly_aligned
from evaluation.scoring.score_cases import metric_names, score_cases
from evaluation.scoring.summary import write_result
from evaluation.statistics.patient_bootstrap import derangement

log = logging.getLogger(__name__)

OF_SAMPLES = {m.name for part in (crps, spread_over_error) for m in part.METRICS}
METHODS = ("model", "model_sample", *Baselines.names, "shuffled_xray")
CASES_IN_MEMORY = 64
BASELINE_VALUES = 2**28 // 3  # float32 values predicted at a time
RESULTS = ("metrics.json", "cases.csv", "table.*", "report.*", "sheet.png", "evidence.png", "nifti", "gif")
RESULTS += ("registered_*",)
DEFINITIONS = {  # in the protocol of the result
    "shuffled_xray": "the volume generated from another patient's X-ray (derangement by seed) against this truth",
    "differences": "model minus the other on the same cases, for this one training; p by sign flips of patients, "
    "Holm over the methods",
}


@dataclass(frozen=True)
class EvaluationSettings:
    """Selection of cases, methods and metrics; UserError for an unknown name or `cases` below 1.

    Attributes:
        cases: the first so many of the split; None = all.
        methods: of `METHODS`; model is required.
        metrics: a set of `evaluation.scoring.score_cases.SETS` or names; PSNR is always added.
        registration: `none`; `rigid` also scores the volumes registered to the truth, into `registered_rigid/`.
        nifti: number of cases with NIfTI and GIF files.
        lpips: file with the weights of AlexNet, for LPIPS.
        totalsegmentator: folder with TotalSegmentator's output for each file in `nifti/`.
        allow_seen_patients: warn instead of refusing patients that the model has trained on.
    """

    split: str = "test"
    cases: int | None = None
    methods: Sequence[str] = METHODS
    metrics: str | Sequence[str] = "default"
    registration: str = "none"
    nifti: int = 8
    lpips: str | None = None
    totalsegmentator: str | None = None
    allow_seen_patients: bool = False

    def __post_init__(self):
        if self.split == "train":
            raise UserError("split=train: no evidence, the generator was trained on these cases; choose test or val")
        for key, choices in (("split", ("test", "val")), ("registration", protocol.REGISTRATIONS)):
            if getattr(self, key) not in choices:
                raise UserError(f"{key}={getattr(self, key)}: choose {', '.join(choices[:-1])} or {choices[-1]}")
        if "model" not in self.methods or not set(self.methods) <= set(METHODS):
            raise UserError(f"methods={list(self.methods)}: choose model and any of {', '.join(METHODS[1:])}")
        if self.cases is not None and self.cases < 1:
            raise UserError(f"cases={self.cases}: give at least 1, or null for all")
        if self.totalsegmentator is not None and not Path(self.totalsegmentator).is_dir():
            raise UserError(
                f"totalsegmentator={self.totalsegmentator}: no such folder; give TotalSegmentator's output"
            )
        names = dict.fromkeys(("psnr", *metric_names(self.metrics)))  # the sheet ranks cases by PSNR
        object.__setattr__(self, "metrics", tuple(names))
        object.__setattr__(self, "methods", tuple(name for name in METHODS if name in self.methods))


@dataclass(frozen=True)
class Inputs:
    """The cases of an evaluation and what the generator takes of them."""

    cases: "_Cases"
    ids: list[str]
    patients: np.ndarray
    model: ModelInputs
    partner: np.ndarray | None  # position of the case whose X-ray replaces that of each case in `shuffled_xray`
    seen: dict | None  # counts of patients that the model has seen


class Evaluator:
    """Evaluates a generator on one split beside baselines.

    Raises UserError for data of another window or size than those of training.

    Args:
        datamodule: `CTDataModule` after `setup()`.
        pipeline: `XrayToCTPipeline`, its sampler set.
        sampling: the estimate of the model is the mean of its samples; the seed is also that of the bootstrap.
        checkpoint: file behind `pipeline`, for the protocol.
        extractor: one of `evaluation.distribution.feature_extractors`, for distances of distributions; None = none.
        intervals: a calibration, for its curve of evidence and its test of input shift; None = maps as the samples
            give them, no test.
    """

    def __init__(
        self,
        datamodule,
        pipeline,
        sampling: Sampling,
        settings: EvaluationSettings,
        checkpoint: Path | None = None,
        extractor=None,
        intervals: PredictionIntervals | None = None,
    ):
        self.datamodule, self.pipeline = datamodule, pipeline
        self.sampling, self.settings, self.checkpoint, self.extractor = sampling, settings, checkpoint, extractor
        self.intervals, self.digest = intervals, checkpoint and sha256(checkpoint)
        self.maps = evidence_maps(pipeline, intervals, self.digest, sampling.samples)
        self.data, self.window = datamodule.protocol(), pipeline.window
        self.size = tuple(self.data["volume_size"])
        check_protocol(self.data, pipeline.protocol)
        self.tools = {FORWARD_MODEL: ForwardModel.of_protocol(self.data)}
        self.tools |= {crps.ANTITHETIC: pipeline.describe().get("antithetic", False)}
        self.tools |= {"lpips": load_lpips(settings.lpips)} if settings.lpips else {}
        self.timings, self._clock = {}, perf_counter()

    def run(self, inputs: Inputs, output: Path) -> dict:
        """Writes everything into the folder `output`; returns the content of its `metrics.json`."""
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output, prefix=".volumes_") as scratch:  # volumes may not fit into memory
            generated, samples, chi2 = self._generate(inputs, Path(scratch))
            baselines, predicted = self._predict_baselines(inputs, Path(scratch))
            noise = self.sampling.seed, self.tools[crps.ANTITHETIC]
            drawn = DrawnSamples(self.pipeline, samples, inputs.ids, *noise, self.maps)
            tables, distances = self._score(inputs, generated | predicted, drawn)
            checks = check_samples(drawn, inputs.cases, inputs.patients)
            checks["input_shift"] = self._input_shift(inputs, chi2)
            pictured = generated["model"], tables["none"], self.window, self.settings.nifti
            write_pictures(output, inputs.cases, inputs.ids, *pictured, evidence=drawn.evidence)
            self._lap("pictures")
        return self._write(output, inputs, baselines, tables, distribution=distances, **checks)

    def read_inputs(self) -> Inputs:
        """The cases of the split; writes nothing.

        Raises UserError for a split without cases, patients that the model has trained on, and ids of one file name.
        """
        settings, seed = self.settings, self.sampling.seed
        chosen = own_split(self.datamodule, settings.split)
        count = min(len(chosen), settings.cases or len(chosen))
        rows = chosen.rows.iloc[:count]
        remedy = "give the dataset.fold and the split that it was trained with, or another checkpoint"
        model, allow = f"checkpoint={self.checkpoint}", settings.allow_seen_patients
        seen = check_patient_leakage(rows, self.pipeline.protocol, self.data, model, remedy, allow)
        ids, patients = [str(i) for i in rows["id"]], rows["patient"].astype(str).to_numpy()
        check_file_names(ids)
        read = chosen.case
        if settings.totalsegmentator is not None:
            read = partial(_with_organs, chosen, ids, Path(settings.totalsegmentator))
        cases = _Cases(read, count)
        partner = derangement(patients, seed) if "shuffled_xray" in settings.methods else None
        if "shuffled_xray" in settings.methods and partner is None:
            log.warning("shuffled_xray is omitted: split %s holds one patient only", settings.split)
        model_inputs = ModelInputs.of_cases(cases, self.pipeline)
        self._lap("reading")
        return Inputs(cases, ids, patients, model_inputs, partner, seen)

    def _generate(self, inputs: Inputs, scratch: Path) -> tuple[dict[str, Tensor], Tensor, list[float | None]]:
        """Mean and first sample of each case by method, samples that metrics need, and chi² of first predictions."""
        count, kept = len(inputs.ids), self.sampling.samples if OF_SAMPLES & set(self.settings.metrics) else 1
        mapped = _mapped(scratch / "generated.npy", (count, 1 + kept, *self.size))
        chi2: list[float | None] = []
        for part, volumes, compared in compared_volumes(self.pipeline, inputs.model, inputs.ids, self.sampling):
            warn_of_contradictions(self.pipeline, [inputs.ids[i] for i in part], compared)
            chi2 += [one.first for one in compared]
            place = slice(part.start, part.stop)
            mapped[place, 0], mapped[place, 1:] = volumes.mean(dim=1), volumes[:, :kept]
        self._lap("generation")
        return {"model": mapped[:, 0], "model_sample": mapped[:, 1]}, mapped[:, 1:], chi2

    def _predict_baselines(self, inputs: Inputs, scratch: Path) -> tuple[dict | None, dict[str, Tensor]]:
        """Description of the baselines, None without any, and their volumes by name."""
        names, described, predicted = [name for name in Baselines.names if name in self.settings.methods], None, {}
        if names:
            baselines = Baselines(self.datamodule.train, self.datamodule.val, self.window)
            described, shape = baselines.describe(), (len(inputs.ids), *self.size)
            predicted = {name: _mapped(scratch / f"{name}.npy", shape) for name in names}
            together = max(1, BASELINE_VALUES // int(np.prod(self.size)))
            for start in range(0, len(inputs.ids), together):
                volumes = baselines.predict(inputs.model.xrays[start : start + together])
                for name in names:
                    predicted[name][start : start + together] = volumes[name]
        self._lap("baselines")
        return described, predicted

    def _score(
        self, inputs: Inputs, volumes: dict[str, Tensor], samples: DrawnSamples
    ) -> tuple[dict[str, pd.DataFrame], dict | None]:
        """Scores of all cases by registration, and distances of the distributions."""

        def volumes_of(index: int) -> dict[str, Tensor]:
            found = {name: values[index] for name, values in volumes.items()}
            if inputs.partner is not None:
                found["shuffled_xray"] = volumes["model"][inputs.partner[index]]
            return {name: found[name] for name in self.settings.methods if name in found}

        def with_samples(index: int) -> dict:
            of = {"model": index} | ({} if inputs.partner is None else {"shuffled_xray": inputs.partner[index]})
            drawn = {name: samples.predictive(i) for name, i in of.items()}
            latent = {name: samples.volumes[i] for name, i in of.items()}
            return inputs.cases.case(index) | {crps.SAMPLES: drawn, crps.LATENT_SAMPLES: latent}

        tables = {}
        for name in dict.fromkeys(("none", self.settings.registration)):
            # registration moves the estimate, not its samples
            metrics = [m for m in self.settings.metrics if name == "none" or m not in OF_SAMPLES]
            table = score_cases(
                _Cases(with_samples, len(inputs.ids)),
                volumes_of,
                self.window,
                inputs.patients,
                inputs.ids,
                metrics=metrics,
                tools=self.tools,
                registration=rigidly_aligned if name == "rigid" else None,
            )
            tables[name] = table
        distances = None if self.extractor is None else self._distances(inputs.cases, volumes)
        self._lap("scoring")
        return tables, distances

    def _distances(self, cases: "_Cases", volumes: dict[str, Tensor]) -> dict:
        spacings = [case["spacing"].tolist() for case in cases]
        truths = (case["ct"].float().clamp(self.window.low, self.window.high) for case in cases)
        real = population(self.extractor, zip(truths, spacings, strict=True))
        return {
            name: compare_populations(population(self.extractor, zip(volumes[name], spacings, strict=True)), real)
            for name in ("model", "model_sample")
        }

    def _write(
        self,
        output: Path,
        inputs: Inputs,
        baselines: dict | None,
        tables: dict[str, pd.DataFrame],
        **parts: dict | None,
    ) -> dict:
        settings, samples, seed = self.settings, self.sampling.samples, self.sampling.seed
        described = protocol.describe(
            window=self.window,
            volume_size=self.size,
            spacing=self.data.get("spacing"),
            samples=samples,
            split=settings.split,
            patients=list(inputs.patients),
            data=self.data,
            data_sha256=protocol.hash_cases(inputs.cases, inputs.ids),
            metrics=settings.metrics,
            seed=seed,
        )
        described["definitions"] |= DEFINITIONS
        sampled = {"model": samples, "shuffled_xray": samples, "model_sample": 1}
        described |= {
            "checkpoint": self.checkpoint and {"file": str(self.checkpoint), "sha256": self.digest},
            **self.pipeline.describe(),
            "seed": seed,
            "seen_patients": inputs.seen,
            "xrays_unlike_training": self._unlike_training(inputs.model),
            "estimators": dict.fromkeys(settings.methods, protocol.POINT)
            | {name: protocol.estimator(count) for name, count in sampled.items() if name in settings.methods},
            "extractor": self.extractor and self.extractor.describe(),
            "baselines": baselines,
            "machine": machine(),
            "timings_s": self.timings,
        }
        written = {}
        for name, table in tables.items():  # one protocol per folder, as evaluation/compare.py needs
            folder = output if name == "none" else output / f"registered_{name}"
            protocol_of = described | {"registration": name}
            written[name] = write_result(folder, protocol_of, table, seed, **parts)
        return written["none"]

    def _unlike_training(self, model: ModelInputs) -> int | None:
        """X-rays with the warning about their distance from those of the training; None without a linear prior."""
        rows = zip(model.xrays[:, :, 0], model.poses, model.extents.tolist(), strict=True)
        distances = [training_distance(GeneratorInput(*row), self.pipeline) for row in rows]
        return None if None in distances else sum(distance > MAX_DISTANCE for distance in distances)

    def _input_shift(self, inputs: Inputs, chi2: list[float | None]) -> dict | None:
        xrays = dict(zip(inputs.ids, inputs.model.xrays[:, :, 0], strict=True))
        return input_shift_decisions(
            self.pipeline.describe(), self.sampling.samples, self.digest, self.intervals, xrays, chi2
        )

    def _lap(self, stage: str) -> None:
        now = perf_counter()
        self.timings[stage], self._clock = round(now - self._clock, 2), now


class _Cases:
    """The first cases of a data set: held in memory up to `CASES_IN_MEMORY`, else read each time."""

    def __init__(self, read: Callable[[int], dict], count: int):
        self._read, self._count = read, count
        self._held = [read(i) for i in range(count)] if count <= CASES_IN_MEMORY else None

    def __iter__(self) -> Iterator[dict]:
        return (self.case(i) for i in range(self._count))

    def case(self, index: int) -> dict:
        return self._read(index) if self._held is None else self._held[index]


def _with_organs(dataset, ids: list[str], folder: Path, index: int) -> dict:
    """A case with TotalSegmentator's masks of its true and its generated file as `organs`."""
    case, name = dataset.case(index), file_name(ids[index])
    geometry = tuple(case["ct"].shape), case["spacing"].tolist(), case["centre"].tolist()
    places = {"truth": f"{name}_true", "model": f"{name}_generated"}
    return case | {"organs": {key: read_organs(folder / place, *geometry) for key, place in places.items()}}


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape))
