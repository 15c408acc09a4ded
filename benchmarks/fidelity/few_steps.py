"""How near samples of few steps, of a teacher or a distilled student, are to those of the teacher with many.

`python benchmarks/fidelity/few_steps.py --ways assets/chest_128.safetensors:12 assets/chest_128.safetensors:2
assets/chest_128_fast.safetensors --patient lidc-idri-0001`; a way is FILE:STEPS, or the FILE of a distilled model.
`--patient` takes the X-rays of the chest benchmark, `--data` the options of a data set. The ways take turns on every
case with the same noise, so that their differences and the ratio of their CPU times are paired.
"""

import argparse
import json
import sys
from pathlib import Path
from time import process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.markdown import table_lines  # noqa: E402

COLUMNS = {  # name in the JSON: title and digits
    "psnr_one": ("PSNR of one sample, dB", 2),
    "psnr_mean": ("PSNR of the mean, dB", 2),
    "crps": ("CRPS, HU", 2),
    "spread": ("spread in the body, HU", 1),
    "spread_over_error": ("spread over error", 2),
    "to_first": ("RMS difference to the first way, HU", 1),
    "seconds": ("CPU seconds per volume", 2),
}


def open_ways(names: list[str]) -> dict:
    """Pipelines by way."""
    from ddpm.checkpoint.load import load_pipeline

    found = {}
    for name in names:
        path, _, steps = name.partition(":")
        pipeline = load_pipeline(ROOT / path)
        if steps:
            pipeline.set_sampler("DPMSolverMultistepScheduler", int(steps), consistency=False)
        found[f"{path}, {pipeline.steps}"] = pipeline
    return found


def frozen_cases(patient: str, size: int) -> list[dict]:
    """The X-rays of a patient of the chest benchmark in every pose, with the truth in HU."""
    from evaluation.scoring.frozen_protocol import read_protocol

    protocol = read_protocol("chests")
    return [{**protocol.case(patient, pose, size), "id": f"{patient} {pose}"} for pose in protocol.poses]


def data_cases(words: list[str], split: str, kind: str, count: int, trained: dict) -> list[dict]:
    """The first `count` cases of a split of a data set whose id begins with `kind`."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from dataset.datamodule import split_cases

    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        cfg = compose("fit_parts", words)
    cases, _ = split_cases(instantiate(cfg.dataset.source), cfg.dataset, split, trained)
    chosen = [i for i, name in enumerate(cases.rows["id"]) if str(name).startswith(kind)][:count]
    return [{**cases.case(i), "id": str(cases.rows.iloc[i]["id"])} for i in chosen]


def facts(samples, case: dict, window) -> dict[str, float]:
    """Scores of the samples `(s, d, h, w)` of one case in HU, in pairs of opposite noise, where it was scanned."""
    import torch

    from evaluation.metrics.crps import crps
    from evaluation.metrics.regions import body_mask
    from evaluation.metrics.spread_over_error import spread_and_error
    from evaluation.metrics.voxel_error import psnr

    hu = case["ct"].float().reshape(samples.shape[1:])
    scanned = case.get("scanned", torch.ones_like(hu, dtype=torch.bool)).reshape(hu.shape)
    truth, body = hu.clamp(window.low, window.high), body_mask(hu) & scanned
    spread, error = spread_and_error(samples[:, body], truth[body], antithetic=True)
    return {
        "psnr_one": float(psnr(samples, truth, window.width, scanned).mean()),
        "psnr_mean": float(psnr(samples.mean(dim=0), truth, window.width, scanned)),
        "crps": float(crps(samples, truth, antithetic=True)[scanned].mean()),
        "spread": spread,
        "error": error,
    }


def measure(ways: dict, cases: list[dict], samples: int, seed: int) -> dict[str, list[dict]]:
    """`facts` of every case by way, with `seconds` of CPU and `to_first`; the ways take turns."""
    from evaluation.generation.model_inputs import ModelInputs

    found: dict[str, list[dict]] = {name: [] for name in ways}
    names = list(ways)
    for number, case in enumerate(cases):
        drawn = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            pipeline = ways[name]
            inputs, start = ModelInputs.of_cases([case], pipeline), process_time()
            place = {"pose": inputs.poses, "extent": inputs.extents, "ids": [case["id"]]}
            result = pipeline(inputs.xrays, num_samples=samples, seed=seed, allow_any_picture=True, **place)
            drawn[name] = (result.volumes[0], (process_time() - start) / samples)
        for name in names:
            volumes, seconds = drawn[name]
            away = (volumes - drawn[names[0]][0]).square().mean().sqrt()
            scores = facts(volumes, case, ways[name].window)
            found[name].append({"id": case["id"], **scores, "to_first": float(away), "seconds": seconds})
    return found


def summarise(rows: list[dict]) -> dict[str, float]:
    """Means over cases; spread, error and difference as root mean squares."""
    from ddpm.diffusion.sample_spread import root_mean_square

    found = {key: sum(row[key] for row in rows) / len(rows) for key in ("psnr_one", "psnr_mean", "crps", "seconds")}
    found |= {key: root_mean_square([row[key] for row in rows]) for key in ("spread", "error", "to_first")}
    return {**found, "spread_over_error": found["spread"] / found["error"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", required=True, help="FILE:STEPS, or FILE of a distilled model")
    parser.add_argument("--patient", help="patient of the chest benchmark")
    parser.add_argument("--data", nargs="*", default=[], help="options of a data set, such as dataset=phantom")
    parser.add_argument("--split", default="test")
    parser.add_argument("--kind", default="", help="start of the ids of the cases")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON of every case")
    options = parser.parse_args()
    ways = open_ways(options.ways)
    first = next(iter(ways.values()))
    if options.patient:
        cases = frozen_cases(options.patient, first.volume_size[0])
    else:
        cases = data_cases(options.data, options.split, options.kind, options.count, first.protocol)
    found = measure(ways, cases, options.samples, options.seed)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {options.samples} samples each")
    rows = [[name, *(f"{summarise(found[name])[key]:.{d}f}" for key, (_, d) in COLUMNS.items())] for name in found]
    print("\n".join(table_lines(["model, steps", *(title for title, _ in COLUMNS.values())], rows)))


if __name__ == "__main__":
    main()
