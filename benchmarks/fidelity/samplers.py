"""Is the default sampler as good as 1,000 ancestral steps? `benchmarks/fidelity/samplers.py --checkpoint FILE`

With `--guidance` it sweeps the guidance scale. `--output` keeps each measured sampler, so that a stopped run resumes;
JSON, table and picture show all kept samplers of the same checkpoint, split, cases and samples, whatever `--ways`
selects. A run that would remove a sampler from the JSON in `--home` is refused.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.fidelity import solvers  # noqa: E402
from benchmarks.fidelity.sampler_plots import guidance_picture, quality_picture  # noqa: E402
from benchmarks.fidelity.stored_xrays import stored_xrays  # noqa: E402
from benchmarks.markdown import span, table_lines  # noqa: E402
from evaluation.statistics.patient_bootstrap import METHOD  # noqa: E402

DPM = {"scheduler": "DPMSolverMultistepScheduler"}
SDE = {**DPM, "algorithm_type": "sde-dpmsolver++"}
REFERENCE = "ancestral, 1000"
SAMPLERS = {  # most important first, in case the time does not suffice
    "default": None,
    "preview": None,
    "sde": None,
    REFERENCE: {"scheduler": "DDPMScheduler", "steps": 1000},
    **{f"DPM-Solver++ in log-SNR, {n}": {**DPM, "spacing": "log_snr", "steps": n} for n in (4, 6, 8, 16, 20)},
    "DPM-Solver++ SDE in log-SNR, 12": {**SDE, "spacing": "log_snr", "steps": 12},
    **{f"DPM-Solver++ in time, {n}": {**DPM, "spacing": "trailing", "steps": n} for n in (6, 8, 12, 14, 16, 20)},
    **{f"DDIM, {n}": {"scheduler": "DDIMScheduler", "steps": n} for n in (4, 12, 50)},
    **{f"ancestral, {n}": {"scheduler": "DDPMScheduler", "steps": n} for n in (20, 50, 250)},
}
GUIDANCE = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


def ways(guidance: bool) -> dict[str, dict]:
    """Settings of `set_sampler` by name; samples are independent, so that their spread is that of the solver."""
    from omegaconf import OmegaConf

    def configured(name: str) -> dict:
        return OmegaConf.to_container(_compose("generate", [f"sampler={name}"]).sampler)

    if guidance:
        found = {f"guidance {g:g}": {**configured("default"), "guidance_scale": g} for g in GUIDANCE}
    else:
        found = {name: configured(name) if setting is None else setting for name, setting in SAMPLERS.items()}
    return {name: {**setting, "antithetic": False} for name, setting in found.items()}


def _compose(command: str, overrides: list[str]):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        return compose(command, overrides)


def gather(
    folder: Path, protocol: dict, settings: dict, wanted: list[str], measure: Callable[[dict], dict], published: Path
) -> dict[str, dict]:
    """Results by name: all that `folder` keeps under this protocol, and the missing ones of `wanted`.

    Args:
        protocol: checkpoint, split, cases and samples; results of another protocol are ignored.
        settings: of every sampler.
        measure: returns the result of one setting.
        published: the JSON that the result replaces; SystemExit if it holds results that would be lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name.replace(', ', '_').replace(' ', '_').replace('+', 'p')}.json" for name in settings}
    found = {}
    for name, setting in settings.items():
        kept = json.loads(files[name].read_text()) if files[name].exists() else {}
        if kept.get("protocol") == protocol and kept.get("setting") == setting:
            found[name] = kept["way"]
    before = json.loads(published.read_text())["ways"] if published.exists() else {}
    lost = [name for name in settings if name in before and name not in (*found, *wanted)]
    if lost:
        raise SystemExit(
            f"{published}: {len(lost)} of its ways are neither selected nor kept in {folder} ({lost[0]}); measure "
            "them too, give the --output that has them, or another --home"
        )
    for name in (name for name in wanted if name not in found):
        print(name, flush=True)
        found[name] = measure(settings[name])
        kept = {"protocol": protocol, "setting": settings[name], "way": found[name]}
        files[name].write_text(json.dumps(kept))
    return {name: found[name] for name in settings if name in found}


def run(options, settings: dict[str, dict], published: Path) -> tuple[dict, dict]:
    """Measures the missing samplers; returns all results by name and the protocol."""
    from hydra.utils import instantiate

    from common.files import sha256
    from dataset.datamodule import prepared_data
    from ddpm.checkpoint.load import load_pipeline
    from evaluation.generation.open_pipeline import resolve_device

    overrides = [f"experiment=fidelity_{options.size}", *options.dataset, *stored_xrays(options.xrays)]
    data = _compose("evaluate", overrides).dataset
    pipeline = load_pipeline(options.checkpoint, device=resolve_device("auto"))
    if options.guidance and not pipeline.guided:
        raise SystemExit(
            f"--guidance: {options.checkpoint} was trained without condition drop (model.conditioning.drop=0), so it "
            "cannot be guided; give a checkpoint of the method condition_drop"
        )
    if not options.guidance and pipeline.describe()["prediction"] == "flow":
        raise SystemExit(
            f"{options.checkpoint}: a model of flow matching, which has no ancestral sampler to compare with; give a "
            "checkpoint of the method model"
        )
    cases = getattr(prepared_data(instantiate(data.source), data), options.split)
    protocol = {
        "version": pipeline.protocol.get("version"),  # of the phantoms
        "checkpoint": sha256(options.checkpoint),
        "split": options.split,
        "cases": min(options.cases, len(cases)),
        "samples": options.samples,
        **({"dataset": options.dataset} if options.dataset else {}),
    }

    def measure(setting: dict) -> dict:
        pipeline.set_sampler(**setting)
        return solvers.measure(pipeline, cases, protocol["cases"], options.samples, options.batch)

    folder = options.output / ("guidance" if options.guidance else "samplers")
    found = gather(folder, protocol, settings, options.ways or list(settings), measure, published)
    return found, protocol | {"checkpoint": {"file": options.checkpoint.name, "sha256": protocol["checkpoint"]}}


def report(found: dict, guidance: bool, protocol: dict) -> dict:
    """`{"protocol", "reference", "intervals", "ways"}`: summaries by name, each against 1,000 ancestral steps or
    guidance 1, and the method of their intervals.
    """
    name = "guidance 1" if guidance else REFERENCE
    result = {"protocol": protocol, "reference": name, "intervals": METHOD, "ways": {}}
    for way, measured in found.items():
        compared = {"against": solvers.against(measured, found[name])} if name in found else {}
        result["ways"][way] = solvers.summarise(measured) | compared
    return result


def markdown(result: dict) -> str:
    """Markdown table, one line per sampler."""
    heads = ("way", "evaluations", "s a volume", "one sample, dB", "mean, dB", "mean of all, dB", "spread", "gradient",
             "amplitude, worst")  # fmt: skip
    rows = []
    for name, way in sorted(result["ways"].items(), key=lambda item: item[1]["evaluations"]):
        against = way.get("against")
        compared = [span(against[key], ".3f") for key in solvers.RATIOS] if against else ["–", "–"]
        compared.append(f"{against['amplitude']['worst']:.3f}" if against else "–")
        errors = [f"{way[key]['mean']:.2f}" for key in solvers.ERRORS]
        rows.append([name, str(way["evaluations"]), f"{way['seconds']:.2f}", *errors, *compared])
    note = f"Spread, gradient and amplitude as shares of those of {result['reference']}."
    return "\n".join([*table_lines(heads, rows), "", note, ""])


def main() -> None:
    """Measures, then writes JSON, table and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64, choices=(64, 128))
    parser.add_argument("--guidance", action="store_true", help="sweep the guidance scale")
    parser.add_argument("--ways", nargs="+", help="only these, by name")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8, help="independent samples of each case")
    parser.add_argument("--split", default="val", help="val by default, since choices are not made on test cases")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--xrays", help="file of pre-rendered X-rays")
    parser.add_argument("--dataset", nargs="*", default=[], help="overrides, as dataset.train=600")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "fidelity" / "solvers")
    parser.add_argument("--home", type=Path, default=ROOT / "outputs" / "fidelity", help="folder of JSON and picture")
    options = parser.parse_args()
    settings = ways(options.guidance)
    unknown = sorted(set(options.ways or ()) - set(settings))
    if unknown:
        parser.error(f"--ways {unknown[0]!r}: choose from {'; '.join(settings)}")
    published = options.home / f"{'guidance' if options.guidance else 'samplers'}_{options.size}.json"
    found, protocol = run(options, settings, published)
    result = report(found, options.guidance, protocol)
    options.home.mkdir(parents=True, exist_ok=True)
    published.write_text(json.dumps(result, indent=1) + "\n")
    picture = guidance_picture if options.guidance else quality_picture
    picture(result).savefig(published.with_suffix(".png"), dpi=120)
    print(markdown(result))


if __name__ == "__main__":
    main()
