"""Runs one generation: from a request to the files of its result, with progress."""

import gc
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.autocast import inference_autocast
from common.errors import UserError
from common.files import sha256
from demo.service.job_queue import Job
from demo.service.messages import PNG_LEVEL, GenerationRequest, Progress, Result, Task
from demo.service.results import write_result
from demo.service.xray_checks import LATERAL, check_xray
from demo.uploads.accept import UNPACKED
from evaluation.generation.agreement import Agreement
from evaluation.generation.metadata import NOISE_ID
from evaluation.generation.open_pipeline import set_sampler
from evaluation.intervals.prediction_intervals import find_intervals
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures

PREVIEW_SIDE = 192  # pixels
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


class Generator:
    """Runs jobs with one model; only the queue's worker thread calls `work`.

    Args:
        samplers: `sampler` config nodes by name; the first is the default.
        checkpoint: file of the pipeline, or None.
        batch_size: samples per batch.
        preview_every: steps between two preview pictures after that of the first step; 0 = none.
        allow_any_picture: whether pictures that are no frontal chest X-rays only have a warning.
    """

    def __init__(
        self,
        pipeline,
        samplers: dict[str, dict],
        checkpoint: Path | None,
        batch_size: int,
        preview_every: int,
        allow_any_picture: bool = False,
    ):
        self.pipeline, self.samplers = pipeline, samplers
        self.batch_size, self.preview_every = batch_size, preview_every
        self.allow_any_picture = allow_any_picture
        self.checkpoint = None if checkpoint is None else {"file": checkpoint.name, "sha256": sha256(checkpoint)}
        self.intervals = None if checkpoint is None else find_intervals(None, checkpoint)
        self._after = 0.0  # seconds between last step and result of the previous job

    def sampler(self, request: GenerationRequest) -> tuple[str, dict]:
        """Name and settings of the sampler of a request."""
        name = request.sampler or next(iter(self.samplers))
        given = {"steps": request.steps, "guidance_scale": request.guidance}
        return name, self.samplers[name] | {key: value for key, value in given.items() if value is not None}

    def steps(self, request: GenerationRequest) -> int:
        """Evaluations of the network that a request takes, as `Progress` counts them."""
        return self.sampler(request)[1]["steps"] * -(-request.samples // self.batch_size)

    def work(self, job: Job, report: Callable[[Progress], None]) -> Result:
        """Runs a job and returns its result; UserError for an unusable X-ray or too little memory."""
        task: Task = job.task
        try:
            return self._work(job, report)
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(t in str(error).lower() for t in NO_MEMORY):
                raise
        finally:
            # delete the uploads, and all files of a cancelled job
            shutil.rmtree(task.place / UNPACKED, ignore_errors=True)
            for file in filter(None, (*task.xrays, task.truth)):
                file.unlink(missing_ok=True)
            if job.cancelled.is_set():
                shutil.rmtree(task.place, ignore_errors=True)
        # outside the handler, because the traceback keeps the tensors alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise UserError("not enough memory on this machine: request fewer samples, or set batch_size=1")

    def _work(self, job: Job, report: Callable[[Progress], None]) -> Result:
        task: Task = job.task
        request, started = task.request, time.monotonic()
        options = (request.view, request.align, self.allow_any_picture)
        checked = check_xray(task.xray, self.pipeline, task.place / "xray.png", *options, task.lateral)
        shown = checked.shown
        if shown is None:
            raise UserError(f"the X-ray: {LATERAL}")
        set_sampler(self.pipeline, self.sampler(request)[1])
        job.check()
        drawing, begun = _Preview(self, task.place, shown.extent, self.steps(request)), []

        def advance(step: int, total: int) -> None:
            job.check()
            begun.append(time.monotonic())  # the first step includes the warm-up
            each = (begun[-1] - begun[0]) / (step - 1) if step > 1 else None
            left = None if each is None else each * (total - step) + self._after
            report(Progress(0, step, total, left, drawing.newest))

        drawn = self.pipeline(
            shown.xray[None, :, None],
            shown.pose[None],
            num_samples=request.samples,
            seed=request.seed,
            ids=[NOISE_ID],
            extent=torch.tensor([shown.extent]),
            allow_any_picture=True,  # checked above
            batch_size=self.batch_size,
            progress=advance,
            preview=drawing.draw if self.preview_every else None,
            guides=[shown.guide],
        )
        job.check()
        stepped = time.monotonic()
        result = write_result(task, checked, drawn.volumes[0].float().cpu(), self, started, Agreement.of(drawn, 0))
        self._after = time.monotonic() - stepped
        return result


class _Preview:
    """Draws intermediate predictions, decoded roughly (`LatentEncoder.preview`)."""

    def __init__(self, generator: Generator, place: Path, extent: tuple[float, float, float], last: int):
        self._pipeline, self._every = generator.pipeline, generator.preview_every
        self._place, self._extent, self._last = place, extent, last
        self.newest: Path | None = None

    def draw(self, step: int, latents: Float[Tensor, "n c d h w"]) -> None:
        """Draws the first sample of the batch after the first step and every `preview_every` steps but the last."""
        if step > 1 and (step % self._every or step == self._last):
            return
        with inference_autocast(latents.device):
            decoded = self._pipeline.latent_encoder.preview(latents[:1]).float()
        volume = self._pipeline.window.denormalise(decoded)[0, 0].cpu()
        spacing = [e / n for e, n in zip(self._extent, volume.shape, strict=True)]
        grey = pictures.display_window(self._pipeline.window)
        path = self._place / f"step_{step:04d}.png"
        sheets.planes_picture(None, volume, spacing, grey, PREVIEW_SIDE).save(path, compress_level=PNG_LEVEL)
        self.newest = path
