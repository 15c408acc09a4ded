"""Is the default sampler as good as 1,000 ancestral steps? `benchmarks/fidelity/samplers.py --checkpoint FILE`

With `--guidance` a sweep of the guidance scale. Each way of sampling is kept once it is done, so that a stopped
run goes on; the table and the picture are made of all that is there.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.fidelity import solvers  # noqa: E402
from benchmarks.fidelity.solver_pictures import guidance_picture, quality_picture  # noqa: E402

HERE = Path(__file__).resolve().parent
DPM = {"scheduler": "DPMSolverMultistepScheduler"}
SDE = {**DPM, "algorithm_type": "sde-dpmsolver++"}
REFERENCE = "ancestral, 1000"
SAMPLERS = {  # in order of what matters, should the time not suffice
    "default": None,
    "fast": None,
    "sde": None,
    REFERENCE: {"scheduler": "DDPMScheduler", "steps": 1000},
    **{f"DPM-Solver++ in log-SNR, {n}": {**DPM, "spacing": "log_snr", "steps": n} for n in (4, 6, 8, 16, 20)},
    "DPM-Solver++ SDE in log-SNR, 12": {**SDE, "spacing": "log_snr", "steps": 12},
    **{f"DPM-Solver++ in time, {n}": {**DPM, "spacing": "trailing", "steps": n} for n in (6, 8, 12, 14, 16, 20)},
    **{f"DDIM, {n}": {"scheduler": "DDIMScheduler", "steps": n} for n in (4, 12, 50)},
    **{f"ancestral, {n}": {"scheduler": "DDPMScheduler", "steps": n} for n in (20, 50, 250)},
}
GUIDANCE = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


def ways(guidance: bool, chosen: list[str] | None) -> dict[str, dict]:
    """Settings of `set_sampler` by name; samples independent, or their spread would not be that of the solver."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        named = [name for name, setting in SAMPLERS.items() if setting is None]
        groups = {n: OmegaConf.to_container(compose("generate", [f"sampler={n}"]).sampler) for n in named}
    if guidance:
        found = {f"guidance {g:g}": {**groups["default"], "guidance_scale": g} for g in GUIDANCE}
    else:
        found = {name: groups[name] if setting is None else setting for name, setting in SAMPLERS.items()}
    names = list(found) if chosen is None else chosen
    return {name: {**found[name], "antithetic": False} for name in names}


def run(options) -> dict:
    """Measures what is not yet there; all that is there by name."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from dataset.datamodule import prepared_data
    from ddpm.checkpoint import load_pipeline, sha256
    from evaluation.sampling import resolve_device

    overrides = [f"experiment=fidelity_{options.size}", *options.dataset]
    overrides += [f"dataset.xray_file={options.xrays}"] if options.xrays else []
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        data = compose("evaluate", overrides).dataset
    pipeline = load_pipeline(options.checkpoint, device=resolve_device("auto"))
    cases = getattr(prepared_data(instantiate(data.source), data), options.split)
    protocol = {
        "checkpoint": sha256(options.checkpoint),
        "split": options.split,
        "cases": min(options.cases, len(cases)),
        "samples": options.samples,
    }
    kept = options.output / ("guidance" if options.guidance else "samplers")
    kept.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, setting in ways(options.guidance, options.ways).items():
        path = kept / f"{name.replace(', ', '_').replace(' ', '_').replace('+', 'p')}.json"
        held = json.loads(path.read_text()) if path.exists() else {}
        if held.get("protocol") != protocol or held.get("setting") != setting:
            print(name, flush=True)
            pipeline.set_sampler(**setting)
            facts = solvers.measure(pipeline, cases, protocol["cases"], options.samples, options.batch)
            held = {"protocol": protocol, "setting": setting, "way": facts}
            path.write_text(json.dumps(held))
        found[name] = held["way"]
    return found


def report(found: dict, guidance: bool) -> dict:
    """Summaries by name, each against the reference: 1,000 ancestral steps, or guidance 1."""
    reference = found.get("guidance 1" if guidance else REFERENCE)
    result = {"reference": "guidance 1" if guidance else REFERENCE, "ways": {}}
    for name, way in found.items():
        compared = {} if reference is None else {"against": solvers.against(way, reference)}
        result["ways"][name] = solvers.summarise(way) | compared
    return result


def markdown(result: dict) -> str:
    """A line a way of sampling."""
    heads = ("way", "evaluations", "s a volume", "one sample, dB", "mean, dB", "mean of all, dB", "spread", "gradient",
             "amplitude, worst")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, way in sorted(result["ways"].items(), key=lambda item: item[1]["evaluations"]):
        cells = [name, str(way["evaluations"]), f"{way['seconds']:.2f}"]
        cells += [f"{way[key]['mean']:.2f}" for key in solvers.ERRORS]
        told = way.get("against")
        cells += [_span(told[key]) for key in solvers.RATIOS] if told else ["–", "–"]
        cells.append(f"{told['amplitude']['worst']:.3f}" if told else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Spread, gradient and amplitude as shares of those of {result['reference']}.", ""])


def _span(estimate: dict) -> str:
    mean = f"{estimate['mean']:.3f}"
    return mean if estimate["low"] is None else f"{mean} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def main() -> None:
    """Measure, then write JSON, table and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64, choices=(64, 128))
    parser.add_argument("--guidance", action="store_true", help="sweep the guidance scale")
    parser.add_argument("--ways", nargs="+", help="only these, by name")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8, help="of each case, independent")
    parser.add_argument("--split", default="val", help="val: what is chosen by it may not be judged on the same cases")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--xrays", help="file of pre-rendered X-rays")
    parser.add_argument("--dataset", nargs="*", default=[], help="overrides, as dataset.train=600")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "fidelity" / "solvers")
    parser.add_argument("--home", type=Path, default=HERE, help="folder for the JSON and the picture that stay")
    options = parser.parse_args()
    result = report(run(options), options.guidance)
    name = f"{'guidance' if options.guidance else 'samplers'}_{options.size}"
    (options.home / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    picture = guidance_picture if options.guidance else quality_picture
    picture(result).savefig(options.home / f"{name}.png", dpi=120)
    print(markdown(result))


if __name__ == "__main__":
    main()
