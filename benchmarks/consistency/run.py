"""Samples of unseen phantoms, or of a patient of the chest benchmark, with and without the update; resumable.

`python benchmarks/consistency/run.py --checkpoint <weights with the part> --cases 24 --samples 8 --output <folder>`
writes one line a case and method to `rows.jsonl`, and prints the table with 95 % intervals over the patients
(`evaluation.statistics.patient_bootstrap`). `--patient lidc-idri-0001` takes the X-rays of that patient in all poses
in place of phantoms; one patient has no interval. `--controls 8` also generates the first 8 cases from X-rays of a
wrong pose, of another grey scale and with noise, with and without the update.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.resumed import expect_same  # noqa: E402
from common.files import sha256  # noqa: E402
from dataset.imaging.drr_options import DrrSettings  # noqa: E402
from dataset.imaging.lung_segmentation import segment_lungs  # noqa: E402
from dataset.sources.phantom import PhantomSource, Population  # noqa: E402
from dataset.sources.settings import Geometry, Xrays  # noqa: E402
from ddpm.checkpoint.load import load_pipeline  # noqa: E402
from evaluation.metrics.crps import crps  # noqa: E402
from evaluation.metrics.dice import dice  # noqa: E402
from evaluation.metrics.regions import body_mask  # noqa: E402
from evaluation.metrics.spread_over_error import spread_and_error  # noqa: E402
from evaluation.metrics.voxel_error import psnr  # noqa: E402
from evaluation.scoring.frozen_protocol import read_protocol  # noqa: E402
from evaluation.statistics.patient_bootstrap import Estimate, bootstrap_mean, bootstrap_ratio  # noqa: E402

METHODS = ("off", "on")
CONTROL_SAMPLES = 2
ROWS = 2  # version of what a row holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="assets/phantom_128.safetensors")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--patient", help="patient of the chest benchmark in place of phantoms")
    parser.add_argument("--controls", type=int, default=0, help="cases that are also generated from wrong X-rays")
    parser.add_argument("--output", type=Path, default=Path("outputs/consistency"))
    args = parser.parse_args()
    pipeline = load_pipeline(args.checkpoint)
    if args.patient:
        cases, other = patient_cases(args.patient, pipeline.volume_size[0])
    else:
        cases, other = phantom_cases(pipeline, args.split, args.cases)
    args.output.mkdir(parents=True, exist_ok=True)
    expect_same(
        args.output,
        {"checkpoint": sha256(Path(args.checkpoint)), "split": args.split, "patient": args.patient, "rows": ROWS},
    )
    file = args.output / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(row["case"], row["samples"], *(["control"] if "control" in row else [])) for row in rows}
    for number, (name, case) in enumerate(cases):
        new = [] if (name, args.samples) in done else measure(pipeline, case, other, name, args.samples)
        if number < args.controls and (name, CONTROL_SAMPLES, "control") not in done:
            new += generated_controls(pipeline, case, name)
        for row in new:
            rows.append(row)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(row, flush=True)
        other = case if args.patient is None else other
    found = [row for row in rows if row["samples"] == args.samples and "control" not in row]
    print(table(found, args.patient))
    print(flags(found, float(pipeline.consistency.limit)))
    print(control_table([row for row in rows if "control" in row], float(pipeline.consistency.limit), args.patient))


def phantom_cases(pipeline, split: str, count: int) -> tuple[Iterator[tuple[str, dict]], dict]:
    """Ids and cases of phantoms of a split, and another patient than the first."""
    data = pipeline.protocol
    population = Population(train=1, val=64, test=128, seed=data["seed"], extent=tuple(data["extent"]))
    drr = DrrSettings(attenuation=data.get("attenuation", "bilinear"), photons=data.get("photons"))
    xrays = Xrays(size=tuple(data["xray_size"]), views=data.get("views", 1), drr=drr)
    finer = data.get("oversample", 1)  # absent in protocols of earlier versions
    source = PhantomSource(population, Geometry(volume_size=pipeline.volume_size), xrays, oversample=finer)
    names = source.rows[source.rows["split"] == split].head(count).to_dict("records")
    return ((name["id"], source.build(name)) for name in names), source.build(names[-1])


def patient_cases(patient: str, size: int) -> tuple[Iterator[tuple[str, dict]], dict]:
    """Ids and cases of a patient of the chest benchmark in all poses, and the first case of another patient."""
    protocol = read_protocol("chests")
    other = protocol.patients[(protocol.patients.index(patient) + 1) % len(protocol.patients)]
    cases = ((f"{patient} {pose}", protocol.case(patient, pose, size)) for pose in protocol.poses)
    return cases, protocol.case(other, protocol.poses[0], size)


def measure(pipeline, case: dict, other: dict, name: str, samples: int) -> list[dict]:
    """Both methods on one case, and chi² of the network's mean first prediction against wrong X-rays."""
    truth = pipeline.window.denormalise(pipeline.window.normalise(case["ct"].float()))
    extent = extent_of(case)
    xray, pose = case["xray"].float()[:, None], case["pose"]
    own = pipeline.consistency.measurement(xray, pose, extent)
    latents = pipeline.latent_encoder.encode(pipeline.window.normalise(case["ct"].float())[None, None])
    found = []
    for method in METHODS:
        pipeline.set_sampler(**{**pipeline.config.sampling, "consistency": method})
        last: list = []
        start = time.process_time()
        options = {"ids": [name], "extent": extent[None], "preview": lambda step, z, last=last: last.append(z)}
        volumes = pipeline(xray[None], pose[None], samples, batch_size=samples, **options).volumes[0]
        seconds = (time.process_time() - start) / samples
        row = {"case": name, "method": method, "samples": samples, "cpu_seconds_a_sample": seconds}
        scanned = case.get("scanned", torch.ones_like(truth, dtype=torch.bool)).reshape(truth.shape)
        masks = scanned, body_mask(case["ct"]) & scanned
        row |= scores(volumes, truth, tuple(case["spacing"].tolist()), *masks, pipeline.antithetic)
        z = last[-1]  # of the last step, at which the samples are as good as clean
        row |= {"chi2": float(own.chi2(z).mean()), "chi2_truth": float(own.chi2(latents))}
        if method == "off":
            given = {"own": (xray, pose), "other_patient": (other["xray"].float()[:, None], pose)}
            row |= first_chi2(
                pipeline.consistency, given | wrong_xrays(xray, pose), extent, last[0].mean(dim=0, keepdim=True)
            )
        else:  # of true latents, at the largest uncertainty
            moved = pipeline.decode(latents + own.update(latents, 0.0, 1.0).change) - pipeline.decode(latents)
            row["rms_change_of_truth_hu"] = float(moved.square().mean().sqrt())
        found.append(row)
    return found


def first_chi2(part, given: dict[str, tuple], extent, first) -> dict[str, float]:
    """`first_<kind>`: chi² of the first prediction for one X-ray against each of `given`, pairs of X-ray and pose."""
    return {f"first_{kind}": float(part.measurement(*place, extent).chi2(first)[0]) for kind, place in given.items()}


def wrong_xrays(xray, pose) -> dict[str, tuple]:
    """An X-ray and its pose with a wrong pose, another grey scale, and noise."""
    turned = pose.clone()
    turned[:, 2] += 5.0
    noisy = xray + 0.05 * torch.randn(xray.shape, generator=torch.Generator().manual_seed(0))
    return {"pose_5_degrees": (xray, turned), "gamma_0.8": (xray**0.8, pose), "noise_0.05": (noisy, pose)}


def generated_controls(pipeline, case: dict, name: str) -> list[dict]:
    """PSNR of a sample of a case from its own and from wrong X-rays, which network and update take alike."""
    truth = pipeline.window.denormalise(pipeline.window.normalise(case["ct"].float()))
    scanned = case.get("scanned", torch.ones_like(truth, dtype=torch.bool)).reshape(truth.shape)
    extent, xray, pose = extent_of(case), case["xray"].float()[:, None], case["pose"]
    found = []
    for kind, (given, place) in {"own": (xray, pose), **wrong_xrays(xray, pose)}.items():
        for method in METHODS:
            pipeline.set_sampler(**{**pipeline.config.sampling, "consistency": method})
            options = {"ids": [name], "extent": extent[None], "allow_any_picture": True}
            drawn = pipeline(given.clamp(0.0, 1.0)[None], place[None], CONTROL_SAMPLES, **options)
            row = {"case": name, "method": method, "samples": CONTROL_SAMPLES, "control": kind}
            row["psnr_one"] = float(psnr(drawn.volumes[0, :1], truth[None], 2000.0, scanned)[0])
            found.append({**row, "first_chi2": float(drawn.first_chi2[0])})
    return found


def extent_of(case: dict) -> torch.Tensor:
    """Millimetres of a case along each axis."""
    return case["spacing"] * torch.tensor(case["ct"].shape[-3:])


def scores(volumes, truth, spacing: tuple, scanned, body, antithetic: bool) -> dict[str, float]:
    """Errors of one sample and of the mean, and of the distribution; spread and error (squared) inside the body.

    Voxels that were not `scanned` are left out, also of the lungs.
    """
    width = 2000.0
    found = {
        "psnr_one": float(psnr(volumes[:1], truth[None], width, scanned)[0]),
        "psnr_mean": float(psnr(volumes.mean(dim=0, keepdim=True), truth[None], width, scanned)[0]),
    }
    if len(volumes) > 4:
        found["psnr_mean_4"] = float(psnr(volumes[:4].mean(dim=0, keepdim=True), truth[None], width, scanned)[0])
    if len(volumes) > 2:
        found["crps"] = float(crps(volumes, truth, antithetic)[scanned].mean())
        spread, error = spread_and_error(volumes[:, body], truth[body], antithetic)
        found |= {"spread_square": spread**2, "error_square": error**2}
    masks = [torch.from_numpy(segment_lungs(v.numpy(), spacing)) & scanned for v in (volumes[0], truth)]
    return {**found, "lung_dice_one": float(dice(*masks))}


def table(rows: list[dict], patient: str | None = None) -> str:
    """Mean of each number by method, and the mean difference on - off, with 95 % intervals over the patients.

    Spread over error is pooled over cases, as in `evaluate.py`; its difference has no interval.
    """
    lines = ["| number | off | on | on - off |", "|---|---|---|---|"]
    pairs = {m: {r["case"]: r for r in rows if r["method"] == m} for m in METHODS}
    cases = sorted(set(pairs["off"]) & set(pairs["on"]))
    patients = np.array([patient or case for case in cases])
    column = {
        key: [np.array([pairs[m][c].get(key, np.nan) for c in cases], dtype=float) for m in METHODS]
        for key in dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, float))
    }
    for key, (off, on) in column.items():
        if key not in ("spread_square", "error_square"):
            shown = [interval(bootstrap_mean(values, patients)) for values in (off, on, on - off)]
            lines.append(f"| {key} | {' | '.join(shown)} |")
    if "spread_square" in column:
        squares = zip(column["spread_square"], column["error_square"], strict=True)
        ratios = [root(bootstrap_ratio(spread, error, patients)) for spread, error in squares]
        difference = interval(Estimate(ratios[1].mean - ratios[0].mean, None, None))
        lines.append(f"| spread over error | {' | '.join(map(interval, ratios))} | {difference} |")
    return "\n".join([f"{len(cases)} cases of {len(set(patients))} patients", *lines])


def flags(rows: list[dict], limit: float) -> str:
    """For how many cases chi² of the first prediction for the own X-ray, against each, exceeds the limit."""
    off = [row for row in rows if row["method"] == "off"]
    kinds = [key for key in (off[0] if off else {}) if key.startswith("first_")]
    counts = (f"{kind[6:]} {sum(row[kind] > limit for row in off)} of {len(off)}" for kind in kinds)
    return f"above the limit of {limit:.1f}: {', '.join(counts)}"


def control_table(rows: list[dict], limit: float, patient: str | None = None) -> str:
    """PSNR of a sample by X-ray and method, and chi² of the first prediction, with 95 % intervals over patients.

    `warned` is the number of cases that the product warns of: their chi² is above `limit`.
    """
    if not rows:
        return ""
    lines = ["| X-ray | off | on | on - off | chi² of the first prediction | warned |", "|---|---|---|---|---|---|"]
    for kind in dict.fromkeys(row["control"] for row in rows):
        of = {m: {r["case"]: r for r in rows if (r["control"], r["method"]) == (kind, m)} for m in METHODS}
        cases = sorted(set(of["off"]) & set(of["on"]))
        patients = np.array([patient or case for case in cases])
        off, on = (np.array([of[m][case]["psnr_one"] for case in cases]) for m in METHODS)
        first = np.array([of["off"][case]["first_chi2"] for case in cases])
        shown = [interval(bootstrap_mean(values, patients)) for values in (off, on, on - off, first)]
        lines.append(f"| {kind} | {' | '.join(shown)} | {(first > limit).sum()} of {len(cases)} |")
    return "\n".join(lines)


def root(square: Estimate) -> Estimate:
    """The square root of an estimate and its interval."""
    low = None if square.low is None else max(square.low, 0.0) ** 0.5
    return Estimate(square.mean**0.5, low, None if square.high is None else square.high**0.5)


def interval(found: Estimate) -> str:
    """`mean [low, high]`, the mean alone without an interval, a dash without a mean."""
    if found.mean is None:
        return "–"
    return f"{found.mean:.3f}" + ("" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]")


if __name__ == "__main__":
    main()
