"""Generates a volume for the X-ray of each pair, registers it rigidly to the CT, and measures both.

Lung volume and cardiothoracic ratio do not depend on the registration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.files import atomic_path
from dataset.imaging.volume import Volume
from evaluation.generation.metadata import NOISE_ID
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.generation.xray_inputs import announce
from evaluation.protocol import comparability as protocol
from evaluation.real_pairs import measures
from evaluation.real_pairs.groups import agreement_table, groups_of, markdown, score_table, write_csv
from evaluation.real_pairs.plots import agreement_plot
from evaluation.real_pairs.pseudo_pairs import FOLDER
from evaluation.real_pairs.read_pairs import PairCase
from evaluation.scoring.evaluation_pictures import write_pictures
from evaluation.scoring.registration import rigidly_aligned
from evaluation.scoring.score_cases import metric_names, score_cases
from evaluation.scoring.summary import MODEL, write_result
from evaluation.statistics.bland_altman import METHOD
from evaluation.statistics.patient_bootstrap import derangement

OTHER = "shuffled_xray"  # the volume of another patient's X-ray: what agreement is without the patient's own
UNREGISTERED = "without_registration"
RESULTS = ("metrics.json", "cases.csv", "measures.csv", "agreement.csv", "groups.csv", "pairs.md", "agreement.png",
           "sheet.png", "report.html", "nifti", "gif", UNREGISTERED, FOLDER)  # fmt: skip


@dataclass(frozen=True)
class PairSettings:
    """What to score and to tabulate; UserError for unknown metrics and missing masks.

    Attributes:
        metrics: as of `evaluation/evaluate.py`.
        findings: columns of the manifest with 1 (yes), 0 (no) or another value (unknown).
        ages: first years of the age groups but the youngest.
        masks: folder with `<id>_generated/` and `<id>_true/`, masks that another program drew in earlier results.
        nifti: number of pairs whose volumes are written.
    """

    metrics: str | Sequence[str]
    findings: Sequence[str] = ()
    ages: Sequence[int] = (40, 65)
    masks: str | None = None
    nifti: int = 8

    def __post_init__(self):
        measures.expect_masks(self.masks)
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(("psnr", *metric_names(self.metrics)))))


class PairScorer:
    """Generates and scores pairs.

    Args:
        rows: of the manifest, one per pair, for the groups.
        sampling: the mean of the samples is scored; the seed is also that of the bootstrap.
    """

    def __init__(
        self, pipeline, cases: Sequence[PairCase], rows: pd.DataFrame, sampling: Sampling, settings: PairSettings
    ):
        self.pipeline, self.cases, self.sampling, self.settings = pipeline, cases, sampling, settings
        self.ids, self.patients = [c.pair.id for c in cases], np.array([c.pair.patient for c in cases])
        self.partner = derangement(self.patients, sampling.seed)
        self.methods = (MODEL,) if self.partner is None else (MODEL, OTHER)
        self.groups = groups_of(rows, settings.findings, settings.ages)
        self.groups["view"] = pd.Series([c.given.notes["view"] for c in cases], rows.index)  # as the model takes it

    def run(self, output: Path, described: dict) -> dict:
        """Writes all results into `output`; returns the content of `metrics.json`, whose protocol has `described`."""
        announce([case.given for case in self.cases])
        with TemporaryDirectory(dir=output, prefix=".volumes_") as scratch:
            generated = self._generate(Path(scratch))
            measured = self._measure(generated)
            tables = {
                name: score_cases(
                    self,
                    lambda i: {method: generated[self._drawn(method, i)] for method in self.methods},
                    self.pipeline.window,
                    self.patients,
                    self.ids,
                    metrics=self.settings.metrics,
                    registration=registration,
                )
                for name, registration in (("none", None), ("rigid", rigidly_aligned))
            }
            window, nifti = self.pipeline.window, self.settings.nifti
            write_pictures(output, self, self.ids, generated, tables["none"], window, nifti)
        return self._write(output, measured, tables, described)

    def case(self, index: int) -> dict:
        """A pair as the metrics take it."""
        return self.cases[index].case()

    def _drawn(self, method: str, index: int) -> int:
        """Position of the pair whose X-ray gave the volume of a method."""
        return index if method == MODEL else int(self.partner[index])

    def _generate(self, scratch: Path) -> Tensor:
        """Mean of the samples of each pair, in a file."""
        shape = (len(self.cases), *self.pipeline.volume_size)
        mapped = np.lib.format.open_memmap(scratch / "generated.npy", mode="w+", dtype=np.float32, shape=shape)
        generated, inputs = torch.from_numpy(mapped), ModelInputs.of_inputs([case.given for case in self.cases])
        for part, volumes in sample_volumes(self.pipeline, inputs, [NOISE_ID] * len(self.cases), self.sampling):
            generated[part.start : part.stop] = volumes.mean(dim=1)
        return generated

    def _measure(self, generated: Tensor) -> pd.DataFrame:
        """Columns `method, measure, id, patient, generated, true`, with a row of each measure for every pair."""
        own = [_measures_of(volume, case.spacing) for volume, case in zip(generated, self.cases, strict=True)]
        records = []
        for i, case in enumerate(self.cases):
            ratio = measures.volume_ratio(case.case()["ct"], case.spacing)
            of_xray = measures.xray_ratio(case.given.picture if case.given.original is None else case.given.original)
            true = {measures.LUNGS: case.lung_ml, measures.RATIO: ratio, measures.RATIO_XRAY: of_xray}
            for method in self.methods:
                found = {name: (own[self._drawn(method, i)][name], value) for name, value in true.items()}
                found |= measures.mask_volumes(self.settings.masks, self.ids[i]) if method == MODEL else {}
                row = {"method": method, "id": self.ids[i], "patient": self.patients[i]}
                records += [row | {"measure": n, "generated": g, "true": t} for n, (g, t) in found.items()]
        table = pd.DataFrame(records)
        wanted = table[["method", "measure"]].drop_duplicates()
        wanted = wanted.merge(pd.DataFrame({"id": self.ids, "patient": self.patients}), how="cross")
        return wanted.merge(table, on=list(wanted.columns), how="left")

    def _write(self, output: Path, measured: pd.DataFrame, tables: dict[str, pd.DataFrame], described: dict) -> dict:
        settings, seed = self.settings, self.sampling.seed
        common = protocol.describe(
            window=self.pipeline.window,
            volume_size=self.pipeline.volume_size,
            spacing=self.cases[0].spacing,
            samples=self.sampling.samples,
            split=described["split"],
            patients=list(self.patients),
            data=described["data"],
            data_sha256=protocol.hash_cases((case.case() for case in self.cases), self.ids),
            metrics=settings.metrics,
            seed=seed,
        )
        common["definitions"] |= {**measures.DEFINITIONS, "agreement": METHOD}
        common |= {**described, "estimators": dict.fromkeys(self.methods, protocol.estimator(self.sampling.samples))}
        agreement = agreement_table(measured, self.groups)
        scores = tables["rigid"][tables["rigid"]["method"] == MODEL]
        by_group = score_table(scores, self.groups, settings.metrics, seed)
        for name, table in {"measures": measured, "agreement": agreement, "groups": by_group}.items():
            write_csv(table, output / f"{name}.csv")
        with atomic_path(output / "pairs.md") as temporary:
            temporary.write_text(markdown(agreement, by_group, MODEL), encoding="utf-8")
        agreement_plot(measured, agreement, output / "agreement.png")
        plain = agreement.astype(object).where(agreement.notna(), None).to_dict("records")
        write_result(output / UNREGISTERED, common | {"registration": "none"}, tables["none"], seed)
        rigid = common | {"registration": "rigid"}
        return write_result(output, rigid, tables["rigid"], seed, agreement=plain)


def _measures_of(volume: Tensor, spacing: tuple[float, float, float]) -> dict[str, float]:
    mask, coarse = measures.lungs_of(Volume(volume.numpy(), spacing))
    ratio = measures.volume_ratio(volume, spacing)
    return {
        measures.LUNGS: measures.lung_ml(mask, coarse.spacing),
        measures.RATIO: ratio,
        measures.RATIO_XRAY: ratio,
    }
