"""Generates CT volumes for X-rays, and writes their files."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from common.files import check_output, sha256
from dataset.io.xray import XRAY_ENDINGS
from dataset.io.xray import find_xrays as xrays_in
from dataset.manifest.separated import SEPARATOR, parts
from ddpm.latent.decoder_residual import with_residual
from evaluation.generation.metadata import NOISE_ID, describe_input, describe_run, spread_parts
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, compared_volumes, terminal_bar, warn_of_contradictions
from evaluation.generation.synthetic_ct import SyntheticCT, files_of
from evaluation.generation.view_pairs import frontal_views, pair_views
from evaluation.generation.xray_inputs import GeneratorInput, XrayFiles, announce, read_inputs
from evaluation.generation.xray_warnings import reproject
from evaluation.intervals.evidence import describe_evidence, evidence_maps
from evaluation.intervals.prediction_intervals import PredictionIntervals, error_bars

log = logging.getLogger(__name__)


def find_xrays(path: str | None) -> list[XrayFiles]:
    """X-rays: a file, views of one patient as `front.png;lateral.png`, or all files of a folder (`for_views`).

    Raises UserError for no path, a missing file, and a folder without an X-ray.
    """
    if not path:
        raise UserError("xray: missing; give an X-ray file or a folder of them, for example xray=chest.png")
    given, views = Path(path), tuple(Path(part) for part in parts(path))
    if given.is_file():
        return [given]
    if given.is_dir():
        return xrays_in(given)
    for view in views or (given,):
        if not view.is_file():
            raise UserError(f"xray={path}: {view}: no such file or folder; give X-ray files or a folder of them")
    return [views]


def for_views(xrays: Sequence[Path], protocol: dict) -> list[XrayFiles]:
    """The X-rays of a folder as a generator takes them: pairs of views, or the frontals if it takes one view."""
    return pair_views(xrays) if protocol.get("views", 1) > 1 else frontal_views(xrays)


def synthesize(
    pipeline,
    inputs: Sequence[GeneratorInput],
    sampling: Sampling,
    checkpoint: Path | None = None,
    intervals: PredictionIntervals | None = None,
    draw: Callable | None = None,
    progress_bar=terminal_bar,
) -> Iterator[SyntheticCT]:
    """Yields the volumes of each X-ray as soon as they are sampled; logs the warnings of all first.

    One that contradicts the network's prediction has its warning after that (`warn_of_contradictions`).

    The noise depends on the seed and the number of the sample alone. Two views are named after the frontal one.
    Volumes from radiographs have a nominal spacing; generators from volumes keep the extent of the input.

    Args:
        checkpoint: file of `pipeline`, for the settings.
        draw: called in place of `pipeline`.
    """
    announce(inputs)
    shared, described = describe_run(pipeline, checkpoint, sampling), pipeline.describe()
    stems = _stems([given.files[0].name if given.files else "xray" for given in inputs])
    digest, ids = (shared["checkpoint"] or {}).get("sha256"), [NOISE_ID] * len(inputs)
    stacked, maps = ModelInputs.of_inputs(inputs), evidence_maps(pipeline, intervals, digest, sampling.samples)
    for part, volumes, agreements in compared_volumes(draw or pipeline, stacked, ids, sampling, progress_bar):
        predictive = volumes  # of one sample no file shows the residual
        if sampling.samples > 1:
            predictive = with_residual(pipeline, volumes, ids[: len(part)], sampling.seed)
        warnings = warn_of_contradictions(pipeline, [stems[i] for i in part], agreements)
        for index, samples, spread, compared, lines in zip(
            part, volumes, predictive, agreements, warnings, strict=True
        ):
            given = replace(inputs[index], warnings=[*inputs[index].warnings, *lines])
            settings = {"xray": _describe_files(given.files), **shared, **describe_input(given, pipeline)}
            spacing = tuple(settings["spacing"])
            settings["reprojection_error"] = reproject(given, samples.mean(dim=0), spacing, pipeline)[1]
            settings["error_bars"] = error_bars(
                described, sampling.samples, digest, intervals, given.nominal, given.xray, compared.first
            )
            settings["agreement"] = compared.describe(pipeline)
            settings["spread_hu"] = spread_parts(samples, spread, described.get("antithetic", False))
            settings["evidence"] = describe_evidence(
                maps, sampling.samples, str(checkpoint or "<path>"), digest, intervals, given.xray, compared.first
            )
            options = {"stem": stems[index], "intervals": intervals, "evidence_maps": maps}
            yield SyntheticCT(samples, spread, given, spacing, pipeline.window, settings, **options)


def generate(
    pipeline,
    xrays: Sequence[XrayFiles],
    output: Path,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    align: str | None = None,
    view: str | None = None,
    intervals: PredictionIntervals | None = None,
    overwrite: bool = False,
    allow_any_picture: bool = False,
) -> list[Path]:
    """Writes the files of each X-ray (`SyntheticCT.save`) into `output` and returns the paths of the mean volumes.

    Raises UserError, before anything is sampled, for an X-ray that cannot be read or is no frontal chest X-ray, and
    for files of an earlier run without `overwrite`.

    Args:
        align, view, allow_any_picture: as in `evaluation.generation.xray_inputs.read_inputs`.
    """
    inputs = read_inputs(xrays, pipeline, align, view, allow_any_picture)
    check_output(output, earlier_files(xrays), overwrite)
    results = synthesize(pipeline, inputs, sampling, checkpoint, intervals)
    return [result.save(output, overwrite)[0] for result in results]


def _describe_files(files: Sequence[Path]) -> dict:
    """Names and hashes of the files of an X-ray; None for one that came without a file."""
    names, hashes = SEPARATOR.join(map(str, files)) or None, SEPARATOR.join(map(sha256, files)) or None
    return {"file": names, "sha256": hashes}


def earlier_files(xrays: Sequence[XrayFiles]) -> list[str]:
    """Patterns of the files that `generate` writes for X-rays."""
    names = [(path if isinstance(path, Path) else path[0]).name for path in xrays]
    return [pattern for stem in _stems(names) for pattern in files_of(stem)]


def _stems(names: Sequence[str]) -> list[str]:
    """File names without their ending; with it, or with a number, where two X-rays would write the same files."""
    bare = []
    for name in names:
        ending = next((e for e in sorted(XRAY_ENDINGS, key=len, reverse=True) if name.lower().endswith(e)), "")
        bare.append(name[: len(name) - len(ending)])
    whole = [name.replace(".", "_") if bare.count(stem) > 1 else stem for stem, name in zip(bare, names, strict=True)]
    return [f"{s}_{i}" if whole.count(s) > 1 else s for i, s in enumerate(whole, start=1)]
