"""The files of a result: volumes, pictures, and the settings that reproduce it."""

import json
import time
from pathlib import Path

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from common.cli import CONFIG
from dataset.imaging.coverage import fill, resample_scanned
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from ddpm.latent.decoder_residual import with_residual
from demo.service.lung_outlines import draw_lungs
from demo.service.messages import MAX_SAMPLE_FILES, PNG_LEVEL, RESULT_FILES, Result, Task
from demo.service.requested_files import keep_recipe
from demo.service.xray_checks import CheckedXray
from demo.service.xray_position import xray_matrices
from evaluation.generation.agreement import Agreement
from evaluation.generation.metadata import NOISE_ID, describe_input, describe_run, spread_parts
from evaluation.generation.sample import Sampling
from evaluation.generation.synthetic_ct import SyntheticCT
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.generation.xray_warnings import aligned_views, reproject
from evaluation.intervals.evidence import describe_evidence, evidence_maps
from evaluation.intervals.prediction_intervals import SPREAD, error_bars
from evaluation.metrics.catalogue import catalogue
from evaluation.scoring.score_cases import score_case
from evaluation.visualization import slices as pictures

ALIKE = (
    "This X-ray is like those of the calibration (p {p:.2g}): python evaluation/generate.py writes its prediction "
    "interval; the page shows the spread."
)
SPREADS_ONLY = (
    "the page shows spreads only; python evaluation/generate.py writes an interval where a calibration of the "
    "checkpoint applies"
)
NAMES = ("psnr", "ssim", "mae_hu", "mae_hu_body", "mae_hu_lungs", "lung_dice")
HOW = "the CT brought to the model's grid as in training: whole, its size in mm taken for the nominal one"
HOW_SPACING = "the CT brought to the model's grid as in training: around its centre, at the model's spacing"
FULL_COLOUR = 0.5  # of the range of an X-ray: difference at which the colour saturates


def write_result(
    task: Task,
    checked: CheckedXray,
    samples: Float[Tensor, "s d h w"],
    generator,
    started: float,
    agreement: Agreement = Agreement(),  # noqa: B008 (immutable)
) -> Result:
    """Writes the files of a result into `task.place`, which holds `xray.png` and `given.png`.

    UserError for an unreadable CT.

    Args:
        samples: HU.
        generator: the `Generator` that drew them.
        started: `time.monotonic()` at the start.
        agreement: of the samples with the X-ray.
    """
    shown, place, pipeline = checked.shown, task.place, generator.pipeline
    mean, window = samples.mean(dim=0), pipeline.window
    spacing = [e / n for e, n in zip(shown.extent, mean.shape, strict=True)]
    # before writing, because an unreadable CT raises
    truth, target = task.truth, place / "truth.nii.gz"
    measured = None if truth is None else compare(truth, mean, spacing, shown, pipeline, target)
    digest = (generator.checkpoint or {}).get("sha256")
    options = (generator.intervals, shown.nominal, shown.xray, agreement.first)
    bars, interval = page_bars(error_bars(pipeline.describe(), len(samples), digest, *options))
    drr, error = reproject(shown, mean, spacing, pipeline)
    with Image.open(checked.given) as film:
        paths = place / "lungs.png", place / "given_lungs.png"
        lungs = draw_lungs(*paths, samples, shown, film.convert("RGB"), pipeline.pose_regressor)
        projections = xray_matrices(shown, pipeline.pose_regressor, film.size[::-1])
    settings = _settings(task, checked, generator)
    predictive = samples  # of one sample nothing shows the residual
    if len(samples) > 1:
        predictive = with_residual(pipeline, samples[None], [NOISE_ID], task.request.seed)[0]
    settings["spread_hu"] = spread_parts(samples, predictive, pipeline.antithetic)
    lines = agreement.warnings(pipeline)
    settings |= {"agreement": agreement.describe(pipeline), "warnings": [*settings["warnings"], *lines]}
    settings |= {"error_bars": bars, "reprojection_error": error, "lungs": lungs, "metrics": measured}
    maps = evidence_maps(pipeline, generator.intervals, digest, len(samples))
    named = generator.checkpoint or {}
    settings["evidence"] = describe_evidence(
        maps, len(samples), named.get("file", "<path>"), digest, generator.intervals, shown.xray, agreement.first
    )
    result = SyntheticCT(samples, predictive, shown, tuple(spacing), window, settings, evidence_maps=maps)
    result.write_mean_and_spread(place / "volume.nii.gz", place / "spread.nii.gz")
    result.write_evidence(place / "evidence.nii.gz")
    for number, sample in enumerate(samples[:MAX_SAMPLE_FILES] if len(samples) > 1 else (), start=1):
        write_nifti(place / f"sample_{number}.nii.gz", sample, spacing, shown.centre, result.mark)
    keep_recipe(place, spacing, shown.centre, window, result.mark)
    if drr is not None:
        _draw_reprojection(place, drr, aligned_views(shown, pipeline.pose_regressor)[0][0])
    (place / "settings.json").write_text(json.dumps(settings, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return Result(
        token=task.token,
        window=(window.low, window.high),
        nominal=shown.nominal,
        warnings=[*checked.warnings, *lines],
        metrics=measured,
        seconds=time.monotonic() - started,
        preview="preview" in bars,
        evidence=evidence_line(settings["evidence"]),
        reprojection=error,
        interval=interval,
        lungs=lungs,
        projections=projections,
        files={name: place / name for name in RESULT_FILES if (place / name).is_file()},
    )


def page_bars(bars: dict) -> tuple[dict, str]:
    """Error bars for the settings of a page, which shows spreads, and what it says of the calibration, or nothing."""
    p = bars.get("input_shift_p")
    if bars["name"] == "interval":
        kept = {key: bars[key] for key in ("input_shift_p", "preview") if bars.get(key) is not None}
        spread = {"name": "spread", "what": SPREAD, "reason": SPREADS_ONLY, **kept}
        return spread, "" if p is None else ALIKE.format(p=p)
    if bars["name"] == "spread" and p is not None:  # an X-ray unlike the calibration's
        return bars, f"Spread only: {bars['reason']}."
    return bars | ({"reason": SPREADS_ONLY} if bars["name"] == "spread" else {}), ""


def evidence_line(found: dict) -> str:
    """What the page says of an evidence map, or of its absence, from the entry of the settings."""
    if found["name"] == "none":
        return f"No evidence map: {found['reason']}."
    too_sure = "" if found["calibrated_on"] else ": a model that is too sure is blue as well"
    return (
        "Evidence: orange, where the samples vary like the training volumes; blue, where they agree; no colour, where "
        f"patients do not differ. Blue is not checked against a truth and no proof{too_sure}. "
        f"{found['words'][0].upper()}{found['words'][1:]}."
    )


def _settings(task: Task, checked: CheckedXray, generator) -> dict:
    """JSON without file names of the patient; `command` reproduces the volume from the same X-ray."""
    request, pipeline = task.request, generator.pipeline
    described = describe_run(pipeline, None, Sampling(request.samples, request.seed))
    described |= {"checkpoint": generator.checkpoint}
    name, sampler = generator.sampler(request)
    options = {
        "sampler": name,
        "sampler.steps": described.get("steps"),
        "sampler.guidance_scale": described.get("guidance_scale"),
        **other_than_shipped(name, sampler),
        "samples": request.samples,
        "seed": request.seed,
        "batch_size": generator.batch_size,
        "view": request.view or "null",
        "align": request.align or "null",
        **({"allow_any_picture": "true"} if generator.allow_any_picture else {}),
    }
    given = "xray=<the same X-ray>" if task.lateral is None else "'xray=\"<the same frontal>;<the same lateral>\"'"
    command = f"python evaluation/generate.py {given} checkpoint=<the same checkpoint> "
    return {
        "xray": {"sha256": task.sha256},
        **described,
        **describe_input(checked.shown, pipeline),
        "command": command + " ".join(f"{key}={value}" for key, value in options.items()),
    }


def other_than_shipped(name: str, sampler: dict) -> dict[str, str]:
    """Options of the command for values of a sampler that differ from those in `config/sampler/<name>.yaml`.

    Without steps and guidance, which the command always states.
    """
    shipped, options = OmegaConf.to_container(OmegaConf.load(CONFIG / "sampler" / f"{name}.yaml")), {}
    for key, value in sampler.items():
        if key not in ("steps", "guidance_scale") and (key not in shipped or shipped[key] != value):
            added = "" if key in shipped else "+"  # Hydra's mark of a key that the file lacks
            words = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            options[f"{added}sampler.{key}"] = words
    return options


def _draw_reprojection(place: Path, drr: Float[Tensor, "h w"], xray: Float[Tensor, "h w"]) -> None:
    """Writes the DRR of the volume and its difference from the X-ray."""
    pictures.mark_synthetic(pictures.xray_tile(drr, 512)).save(place / "reprojection.png", compress_level=PNG_LEVEL)
    image = Image.fromarray(pictures.error_colours((drr - xray).numpy(), FULL_COLOUR))
    image = image.resize((512, 512), Image.Resampling.BICUBIC)
    pictures.mark_synthetic(image).save(place / "difference.png", compress_level=PNG_LEVEL)


def compare(
    truth: Path, mean: Float[Tensor, "d h w"], spacing, shown: GeneratorInput, pipeline, target: Path
) -> dict[str, dict]:
    """Writes the CT as `target` on the grid of the generated volume; `{metric: {"label", "unit", "value", "digits"}}`.

    A value is None if the metric is undefined. `how` names the resampling of the CT. UserError for an unreadable CT.
    """
    protocol = pipeline.protocol
    by_spacing = protocol.get("resampling") == "spacing"
    spacing_mm = tuple(protocol["spacing"]) if by_spacing else None
    volume = resample_scanned(read_volume(truth), pipeline.volume_size, spacing_mm)
    write_nifti(target, volume.hu, spacing, shown.centre, "uploaded CT on the grid of the generated volume")
    hu, scanned = fill(volume.hu)
    case = {"ct": torch.from_numpy(hu), "scanned": torch.from_numpy(scanned), "spacing": torch.tensor(volume.spacing)}
    case |= {"xray": torch.zeros(0, 1, 1), "pose": torch.zeros(0, 9)}
    row = score_case(case, {"model": mean}, pipeline.window, metrics=NAMES)[0]
    found: dict[str, dict] = {"how": {"label": HOW_SPACING if by_spacing else HOW, "unit": "", "value": None}}
    for name in NAMES:
        entry, value = catalogue()[name], row[name]
        value = round(float(value), entry.digits) if value == value else None
        found[name] = {"label": entry.label, "unit": entry.unit, "value": value, "digits": entry.digits}
    return found
