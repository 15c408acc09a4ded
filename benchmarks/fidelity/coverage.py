"""Coverage of prediction intervals on fresh phantoms, unchanged and shifted, and how often an interval is withheld.

`python benchmarks/fidelity/coverage.py --checkpoint <weights> --fresh 1000 --shifted 200 --output <folder>` draws
calibration phantoms and others of the checkpoint's population, writes a line a case to `rows.jsonl`, which a later
call continues, and the tables to `coverage.md`. The intervals reach from the smallest to the largest sample and have
the conformal margins of `evaluation/calibrate.py`, whose test of input shift decides which of them are claimed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.markdown import table_lines  # noqa: E402
from benchmarks.resumed import expect_same  # noqa: E402
from common.files import sha256  # noqa: E402
from dataset.datamodule import split_cases  # noqa: E402
from dataset.imaging.drr_options import DrrSettings  # noqa: E402
from dataset.sources.phantom import PhantomSource, Population  # noqa: E402
from dataset.sources.settings import Geometry, Xrays  # noqa: E402
from ddpm.checkpoint.load import load_pipeline  # noqa: E402
from ddpm.pipeline import GeneratedCT  # noqa: E402
from evaluation.calibration.calibrate_intervals import covered_by, margins_of, scores_of  # noqa: E402
from evaluation.generation.sample import Sampling  # noqa: E402
from evaluation.intervals.input_shift import FITTED_ON, LEVEL, InputShift  # noqa: E402
from evaluation.intervals.organ_volumes import fit_heart_regressor  # noqa: E402
from evaluation.intervals.quantities import ORGANS, title  # noqa: E402
from evaluation.statistics.split_conformal import coverage_p  # noqa: E402

FIRST = {"calibration": 30_000_000, "unchanged": 40_000_000}  # index of the first phantom; shifted ones follow these
SHIFTED_FROM = 41_000_000
LARGER_FIELD = 1.2  # of the volume in mm: the patients look smaller
LEAST = 0.8  # coverage below which no interval may be claimed
TOGETHER = 8  # cases of a chunk


def blurred(xray):
    return F.avg_pool2d(F.pad(xray[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]


def slightly_blurred(xray):
    """A quarter of a pixel's variance to each side: a Gaussian of half a pixel."""
    edges = F.pad(xray[None], (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([0.125, 0.75, 0.125])
    return F.conv2d(edges, (kernel[:, None] * kernel)[None, None])[0]


def noisy(xray):
    return (xray + 0.02 * torch.randn(xray.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


CHANGES: dict[str, Callable] = {
    "exponent 0.8": lambda xray: xray**0.8,
    "exponent 1.25": lambda xray: xray**1.25,
    "exponent 0.9": lambda xray: xray**0.9,
    "blur (3×3 mean)": blurred,
    "noise of 0.02": noisy,
    "slight blur (half a pixel)": slightly_blurred,
}
POPULATIONS = {"all with emboli and their signs": {"pe_share": 1.0, "sign_rate": 1.0}, "larger field": {}}
OTHER = "volume of another patient"
*STRONG, SLIGHT = CHANGES
SHIFTS = (*STRONG, *POPULATIONS, OTHER, SLIGHT)


class OtherPatient:
    """The pipeline, but the volumes for an X-ray are drawn from that of the patient before it in the batch."""

    def __init__(self, pipeline):
        self.pipeline = pipeline

    def __getattr__(self, name: str):
        return getattr(self.pipeline, name)

    def __call__(self, xray, pose, num_samples: int, extent, **options) -> GeneratedCT:
        first: list = []  # all predictions of the first step: a call is one batch
        options |= {"extent": extent, "preview": lambda step, clean: first.append(clean) if step == 1 else None}
        drawn = self.pipeline(xray.roll(1, 0), pose, num_samples, **options)
        if self.consistency is None:
            return drawn
        given = zip(xray, pose, extent, first[0].split(num_samples), strict=True)
        chi2 = [self.consistency.measurement(x, p, e).chi2(clean.mean(dim=0)[None]) for x, p, e, clean in given]
        return GeneratedCT(drawn.volumes, first_chi2=torch.cat(chi2))


class Built:
    """Rendered and changed cases behind the interface of a `CaseDataset`."""

    def __init__(self, source: PhantomSource, names: list[dict], change: Callable | None):
        self.rows, self._cases = pd.DataFrame(names), [source.build(name) for name in names]
        for case in self._cases if change else ():
            case["xray"] = change(case["xray"].float())

    def case(self, index: int) -> dict:
        return self._cases[index]


def source_of(protocol: dict, first: int = 20_000_000, count: int = 32, shift: str = "") -> PhantomSource:
    """Phantoms of the population of a checkpoint, with `count` test phantoms from index `first`."""
    extent = tuple(e * (LARGER_FIELD if shift == "larger field" else 1.0) for e in protocol["extent"])
    settings = {key: protocol[key] for key in ("pe_share", "sign_rate")} | POPULATIONS.get(shift, {})
    counts = {"train": protocol["split"]["train"], "val": 1, "test": count, "test_from": first}
    population = Population(**counts, **settings, seed=protocol["seed"], extent=extent)
    drr = DrrSettings(attenuation=protocol.get("attenuation", "bilinear"), photons=protocol.get("photons"))
    xrays = Xrays(size=tuple(protocol["xray_size"]), drr=drr)
    geometry = Geometry(volume_size=tuple(protocol["volume_size"]))
    return PhantomSource(population, geometry, xrays, oversample=protocol.get("oversample", 1))


def rows_of(pipeline, shift: str, first: int, sampling: Sampling, test: InputShift, heart) -> list[dict]:
    """Scores, statistic of the X-ray and chi² of a chunk of cases from index `first`."""
    source = source_of(pipeline.protocol, first, TOGETHER, shift)
    names = source.rows[source.rows["split"] == "test"].to_dict("records")
    cases = Built(source, names, CHANGES.get(shift))
    drawn_by, smallest = OtherPatient(pipeline) if shift == OTHER else pipeline, 1.0 - 2.0 / sampling.samples
    scores, _, chi2, _ = scores_of(drawn_by, cases, range(TOGETHER), sampling, [smallest], 0.9, heart)
    return [
        {
            "shift": shift,
            "id": name["id"],
            "chi2": compared,
            "distance": test.distance(cases.case(i)["xray"].float()),
            "exponent": test.exponent(cases.case(i)["xray"].float()),
            "scores": {s.quantity: [s.below, s.above] for s in scores[scores.id == name["id"]].itertuples()},
        }
        for i, (name, compared) in enumerate(zip(names, chi2, strict=True))
    ]


def tables(rows: list[dict], test: InputShift, level: float) -> str:
    """Share of withheld intervals and coverage by shift, over all X-rays and over those with a claimed interval."""
    known = [row for row in rows if row["shift"] == "calibration"]
    test = test.calibrated([_statistic(row, test) for row in known], [row["chi2"] for row in known])
    margins = margins_of(_scores(known, level), level)
    parts: dict[str, list] = {"all": [], "claimed": []}
    for shift in ("unchanged", *SHIFTS):
        found = [row for row in rows if row["shift"] == shift]
        if not found:
            continue
        p = np.array([test.p_of(_statistic(row, test), row["chi2"]) for row in found])
        for part, kept in (("all", p >= 0.0), ("claimed", p >= LEVEL)):
            chosen = [row for row, keep in zip(found, kept, strict=True) if keep]
            head = (
                [shift, str(len(found)), f"{np.mean(p < LEVEL):.3f}"] if part == "all" else [shift, str(len(chosen))]
            )
            parts[part].append(head + [_cell(chosen, name, margin, level) for name, margin in margins.items()])
    titles = [title(name, None) for name in margins]  # not compared with labels here
    heads = {"all": ["X-rays", "cases", "withheld", *titles], "claimed": ["X-rays", "claimed", *titles]}
    words = {"all": "Coverage over all X-rays (beta-binomial p):", "claimed": "Coverage of the claimed intervals:"}
    return "\n".join(line for part in parts for line in (words[part], "", *table_lines(heads[part], parts[part]), ""))


def _statistic(row: dict, test: InputShift) -> float:
    return round(max(row["distance"] / test.sizes[0], row["exponent"] / test.sizes[1]), 4)


def _scores(rows: list[dict], level: float) -> pd.DataFrame:
    found = [(name, level, *ends) for row in rows for name, ends in row["scores"].items()]
    return pd.DataFrame(found, columns=["quantity", "level", "below", "above"])


def _cell(rows: list[dict], quantity: str, margin: dict, level: float) -> str:
    scores = _scores(rows, level)
    inside = covered_by(scores[scores.quantity == quantity], margin)
    if not len(inside):
        return "–"
    covered = int(inside.sum())
    p = coverage_p(covered, len(inside), margin["cases"], level, 2 if quantity in ORGANS else 1)
    mark = "**" if inside.mean() < LEAST else ""
    return f"{mark}{inside.mean():.3f}{mark} ({p:.2g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--calibration", type=int, default=256, help="calibration phantoms")
    parser.add_argument("--fresh", type=int, default=1000, help="unchanged phantoms")
    parser.add_argument("--shifted", type=int, default=200, help="phantoms of each shift")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--steps", type=int, default=None, help="of the sampler; that of the checkpoint if not given")
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--cache", type=Path, default=Path("outputs/cache"), help="prepared training phantoms")
    parser.add_argument("--output", type=Path, default=Path("outputs/coverage"))
    args = parser.parse_args()
    pipeline = load_pipeline(args.checkpoint)
    steps = {} if args.steps is None else {"steps": args.steps}
    pipeline.set_sampler(**{**pipeline.config.sampling, **steps, "consistency": "off"})
    data = SimpleNamespace(cache_dir=args.cache, prepare_workers=1, window=pipeline.protocol["window"])
    train, _ = split_cases(source_of(pipeline.protocol), data, "train", pipeline.protocol)
    heart = fit_heart_regressor(train, pipeline.window)
    evenly = np.unique(np.linspace(0, len(train) - 1, min(FITTED_ON, len(train))).astype(int))
    test = InputShift.fit([train.case(int(i))["xray"].float() for i in evenly], [])
    args.output.mkdir(parents=True, exist_ok=True)
    drawn = {"samples": args.samples, "steps": pipeline.config.sampling["steps"]}
    expect_same(args.output, {"checkpoint": sha256(Path(args.checkpoint)), **drawn})
    file, sampling = args.output / "rows.jsonl", Sampling(args.samples, 0, TOGETHER * args.samples)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    wanted = [("calibration", args.calibration), *((s, args.shifted) for s in SHIFTS), ("unchanged", args.fresh)]
    for number, (shift, count) in enumerate(wanted):
        first = FIRST.get(shift, SHIFTED_FROM + 10_000 * number)
        for start in range(len([row for row in rows if row["shift"] == shift]), count, TOGETHER):
            found = rows_of(pipeline, shift, first + start, sampling, test, heart)
            with file.open("a") as out:
                out.write("".join(json.dumps(row) + "\n" for row in found))
            rows += found
    text = tables(rows, test, args.level)
    (args.output / "coverage.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
