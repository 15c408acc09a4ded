"""The pipeline of the public API: from an X-ray in any form to volumes, as `evaluation/generate.py` makes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from common.errors import UserError
from dataset.io.pictures import IMAGE_ERRORS
from dataset.manifest.separated import SEPARATOR
from ddpm.checkpoint.load import load_pipeline
from ddpm.pipeline import XrayToCTPipeline as TensorPipeline
from ddpm.pipeline_folder import is_folder, refuse_precision
from evaluation.generation.ensemble import Ensemble
from evaluation.generation.lung_guidance import AUTO
from evaluation.generation.open_pipeline import SHIPPED, find_checkpoint
from evaluation.generation.sample import Sampling
from evaluation.generation.synthetic_ct import SyntheticCT, SyntheticCTs
from evaluation.generation.write_volumes import synthesize
from evaluation.generation.xray_inputs import GeneratorInput, read_inputs, tensor_inputs
from evaluation.intervals.prediction_intervals import find_intervals

OUTPUT_TYPES = ("pt", "np")
Xray = str | PathLike | Image.Image | np.ndarray | Tensor
"""A file, or its picture or array `(h, w)`: read, checked and aligned."""


class XrayToCTPipeline(TensorPipeline):
    """Generates CT volumes in HU from chest X-rays.

    `pipe = XrayToCTPipeline.from_pretrained("shipped")`, then `result = pipe("chest.png", num_samples=4, seed=0)`.

    Attributes:
        checkpoint: file or folder of the weights; None from the hub.
    """

    checkpoint: Path | None = None
    ensemble: Ensemble | None = None  # which samples in its place

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike = "shipped", **options):
        """The pipeline of `shipped` (docs/model_card.md), a .ckpt, a .safetensors, a diffusers folder or a hub id.

        A folder of trainings stands for its newest checkpoint.

        `options` are those of `ddpm.pipeline.XrayToCTPipeline.from_pretrained`, for folders and the hub. Raises
        UserError for a file or folder that is no generator.
        """
        name = str(pretrained_model_name_or_path)
        path = SHIPPED if name == "shipped" else Path(name).expanduser()
        path = find_checkpoint(str(path)) if path.is_dir() and not is_folder(path) else path
        if path.is_dir() or not (path.exists() or path.suffix in (".ckpt", ".safetensors")):
            try:
                pipeline = super().from_pretrained(path if path.is_dir() else name, **options)
            except (OSError, HFValidationError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{name}: no file or folder here, and not from the hub ({reason})") from error
        else:
            refuse_precision(options)
            if options:
                raise UserError(f"{path}: {', '.join(options)}: for folders and the hub; leave it out for a file")
            pipeline = cls.of(load_pipeline(path))
        pipeline.checkpoint = path if path.exists() else None
        return pipeline

    @classmethod
    def of(cls, pipeline: TensorPipeline, checkpoint: Path | None = None) -> "XrayToCTPipeline":
        """The same parts and sampler in a pipeline of the public API."""
        parts = {**pipeline.components, "scheduler": pipeline.training_scheduler}
        made = cls(**parts, protocol=pipeline.protocol, sampling=dict(pipeline.config.sampling))
        made.checkpoint, made.ensemble = checkpoint, pipeline if isinstance(pipeline, Ensemble) else None
        return made

    def __call__(
        self,
        xray: Xray | tuple[Xray, Xray] | Sequence[Xray | tuple[Xray, Xray]] | Float[Tensor, "b v 1 h w"],
        num_samples: int = 1,
        seed: int = 0,
        *,
        output_type: str = "pt",
        **options,
    ) -> SyntheticCT | SyntheticCTs:
        """Synthetic CT volumes of one X-ray, or of each X-ray of a list or batch.

        The same file, seed and options give the same volume as `evaluation/generate.py`.

        Args:
            xray: a path, PIL image, or array `(h, w)` of any range, which is checked and aligned; a tuple of a frontal
                and a lateral for a generator of two views; a list of X-rays; or a batch `(b, v, 1, h, w)` in [0, 1] of
                the size in the protocol, which is taken as it is.
            num_samples: volumes of each X-ray.
            seed: of the noise; `generator` draws one instead.
            output_type: `pt` or `np`.
            options: those of `stream`.

        Raises UserError for an X-ray that cannot be read or is no frontal chest X-ray, and for a wrong option.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type={output_type}: choose {' or '.join(OUTPUT_TYPES)}; to_nifti() gives NIfTI")
        several = isinstance(xray, list) or getattr(xray, "ndim", 0) == 5
        if several and not len(xray):
            raise UserError("xray: an empty list; give at least one X-ray")
        results = self.stream(xray if several else [xray], num_samples, seed, **options)
        results = SyntheticCTs(replace(result, numpy=output_type == "np") for result in results)
        return results if several else results[0]

    def stream(
        self,
        xrays: Sequence[Xray | tuple[Xray, Xray]] | Float[Tensor, "b v 1 h w"],
        num_samples: int = 1,
        seed: int = 0,
        *,
        generator: torch.Generator | None = None,
        align: str | None = None,
        view: str | None = None,
        pose: Float[Tensor, "b v 9"] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 8,
        bounds: str | PathLike | None = None,
        allow_any_picture: bool = False,
        lung_guide: str | None = AUTO,
    ) -> Iterator[SyntheticCT]:
        """Reads and checks all X-rays, then returns an iterator that samples the volumes of each when asked for.

        A single X-ray is taken as a list of one. Steps and guidance hold for this iterator alone.

        Args:
            generator: draws the seed.
            align, view, allow_any_picture, lung_guide: as in `evaluation.generation.xray_inputs.read_inputs`.
            pose: geometry of each view of a batch, NaN or None where unknown.
            num_inference_steps, guidance_scale: of the sampler; None takes those of `set_sampler`.
            batch_size: volumes sampled at once.
            bounds: calibration file; None takes the one beside the checkpoint, if any.
        """
        if isinstance(xrays, (str, PathLike, tuple, Image.Image)) or getattr(xrays, "ndim", 0) == 2:
            xrays = [xrays]
        if generator is not None:
            seed = int(torch.randint(2**32, (), generator=generator, device=generator.device))
        sampling = Sampling(num_samples, seed, batch_size)
        intervals = find_intervals(bounds, self.checkpoint) if bounds or self.checkpoint else None
        with TemporaryDirectory() as folder:
            if getattr(xrays, "ndim", 0) == 5:
                inputs = tensor_inputs(torch.as_tensor(xrays), self, pose, allow_any_picture)
            else:
                inputs = _read(xrays, Path(folder), self, align, view, allow_any_picture, lung_guide)
        drawn_by = self if self.ensemble is None else self.ensemble
        options = {"draw": self.ensemble or super().__call__, "progress_bar": partial(_bar, self)}
        given = {"steps": num_inference_steps, "guidance_scale": guidance_scale}
        own = {name: value for name, value in given.items() if value is not None}

        def sampled() -> Iterator[SyntheticCT]:
            results = synthesize(drawn_by, inputs, sampling, self.checkpoint, intervals, **options)
            while True:
                with self._sampler(own):  # not across a yield, where other calls may run
                    result = next(results, None)
                if result is None:
                    return
                yield result

        return sampled()

    @contextmanager
    def _sampler(self, settings: dict) -> Iterator[None]:
        """Other settings of the sampler in the block, in the settings of the results too."""
        if not settings:
            yield
            return
        before = dict(self.config.sampling)
        self.set_sampler(**before | settings)
        try:
            yield
        finally:
            self.set_sampler(**before)


from_pretrained = XrayToCTPipeline.from_pretrained


@contextmanager
def _bar(pipeline: TensorPipeline) -> Iterator[Callable[[int, int], None]]:
    """The progress bar of diffusers (`set_progress_bar_config`)."""
    with pipeline.progress_bar(total=0) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _read(xrays: Sequence, folder: Path, pipeline, *options) -> list[GeneratorInput]:
    """Reads X-rays in any form; pictures and arrays through files in `folder`, so that all have the same checks."""
    patients, named = [], {}
    for number, patient in enumerate(xrays, start=1):
        if isinstance(patient, str) and SEPARATOR in patient and not Path(patient).exists():
            patient = tuple(part.strip() for part in patient.split(SEPARATOR))
        views = patient if isinstance(patient, tuple) else (patient,)
        files = tuple(_file(view, folder / f"xray_{number}_{i}") for i, view in enumerate(views, start=1))
        named |= {str(file): f"xray {number}" for file in files if file.parent == folder}
        patients.append(files)
    try:
        inputs = read_inputs(patients, pipeline, *options)
    except UserError as error:
        text = str(error)
        for file, name in named.items():
            text = text.replace(file, name)
        raise UserError(text) from error
    return [replace(given, files=()) if any(str(f) in named for f in given.files) else given for given in inputs]


def _file(xray: Xray, target: Path) -> Path:
    """The path of an X-ray; a picture or an array is written to `target` without loss."""
    if isinstance(xray, str | PathLike):
        return Path(xray).expanduser()
    if isinstance(xray, Image.Image) and xray.mode not in ("F", "I"):
        path = target.with_suffix(".png")
        try:
            xray.load()
        except IMAGE_ERRORS as error:
            raise UserError(f"xray: a damaged or closed picture ({error}); open it again or save it anew") from error
        try:
            xray.save(path, exif=xray.getexif())
        except OSError as error:
            raise UserError(
                f"xray: a picture of the mode {xray.mode}; convert it to grey with .convert('L')"
            ) from error
        return path
    array = xray.detach().float().cpu().numpy() if isinstance(xray, Tensor) else np.asarray(xray)
    path = target.with_suffix(".npy")
    np.save(path, array, allow_pickle=False) if array.dtype.kind in "uifb" else np.save(path, np.zeros(0))
    return path
