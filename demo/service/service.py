"""Service behind the page and the API: checks X-rays and generates volumes one at a time with one model."""

import contextlib
import logging
import math
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.files import sha256
from dataset.manifest.separated import SEPARATOR
from ddpm.conditioning.views import serves_fewer_views
from demo.service.job_queue import JobQueue
from demo.service.messages import GenerationRequest, Limits, Progress, Result, Task
from demo.service.result_store import Store
from demo.service.trust import how_far_to_trust
from demo.service.worker import Generator
from demo.service.xray_checks import CheckedXray, check_xray
from demo.uploads.accept import accept_upload

MAX_GUIDANCE = 10.0
MAX_PARALLEL_CHECKS = 2

log = logging.getLogger(__name__)


class Service:
    """Checks X-rays and generates volumes; thread-safe, one model, one volume at a time.

    Takes models of a frontal X-ray, of a frontal and a lateral, and of one or both (`about["lateral"]`).

    Args:
        pipeline: the generator; for the exclusive use of the service.
        folder: existing folder of this run; `close` deletes it.
        samplers: `sampler` config nodes by name; the first is the default.
        checkpoint: file of the pipeline, recorded in the settings of a result.
        keep_minutes: lifetime of uploads and results.
        limits: limits of requests, queue and uploads.
        batch_size: samples per batch.
        preview_every: steps between two preview pictures after that of the first step; 0 = none.
        allow_any_picture: whether pictures that are no frontal chest X-rays only have a warning.
    """

    def __init__(
        self,
        pipeline,
        folder: Path,
        samplers: dict[str, dict],
        checkpoint: Path | None = None,
        keep_minutes: float = 60.0,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        batch_size: int = 1,
        preview_every: int = 6,
        allow_any_picture: bool = False,
    ):
        _refuse_unfit(pipeline, checkpoint)
        self.pipeline, self.samplers, self.limits = pipeline, samplers, limits
        self.default_sampler = next(iter(self.samplers))
        self.store = Store(folder, keep_minutes * 60.0)
        self._checks = threading.Semaphore(MAX_PARALLEL_CHECKS)  # each check needs memory
        self.allow_any_picture = allow_any_picture
        options = (batch_size, preview_every, allow_any_picture)
        self._generator = Generator(pipeline, self.samplers, checkpoint, *options)
        self.queue = JobQueue(self._generator.work, self.limits.max_queue)

    @property
    def about(self) -> dict:
        """Description of the model."""
        pipeline = self.pipeline
        return {
            "window": [pipeline.window.low, pipeline.window.high],
            "volume_size": list(pipeline.volume_size),
            "trust": how_far_to_trust(pipeline.protocol),
            "guided": pipeline.guided,
            "lateral": self.lateral,
            "device": str(pipeline.device),
            "checkpoint": self._generator.checkpoint,
        }

    @property
    def lateral(self) -> str:
        """Whether the model takes a lateral as second view: `none`, `optional` or `needed`."""
        if self.pipeline.protocol.get("views", 1) == 1:
            return "none"
        return "optional" if serves_fewer_views(self.pipeline.protocol) else "needed"

    def look(
        self, xray: Path, view: str | None = None, align: str | None = None, lateral: Path | None = None
    ) -> CheckedXray:
        """Returns the X-ray as the model sees it, with warnings; UserError, without file name, if unreadable.

        `lateral` is the second view.
        """
        request = self.checked(GenerationRequest(view=view, align=align))
        self._check_lateral(lateral)
        with self._checks, self.store.held() as (_, place):
            upload, second = self._accepted(xray, lateral, place)
            with _anonymous(upload, second):
                options = (request.view, request.align, self.allow_any_picture)
                checked = check_xray(upload, self.pipeline, place / "xray.png", *options, second)
            for file in filter(None, (upload, second)):
                file.unlink()
            return checked

    def generate(
        self,
        xray: Path,
        request: GenerationRequest,
        truth: Path | None = None,
        cancelled: threading.Event | None = None,
        lateral: Path | None = None,
    ) -> Iterator[Progress | Result]:
        """Yields progress, then the result; setting `cancelled` or closing the iterator cancels the request.

        `xray` is the frontal X-ray, `lateral` the second view, which the model may take (`self.lateral`).
        UserError for an unreadable file, an option out of range, too little memory; `Busy` and `Cancelled` are such.
        """
        request = self.checked(request)
        self._check_lateral(lateral)
        with self.store.held() as (token, place):
            with self._checks:
                upload, second = self._accepted(xray, lateral, place)
                ct = None if truth is None else accept_upload(truth, place, self.limits.ct_bytes, volume=True)
                digest = SEPARATOR.join(map(sha256, filter(None, (xray, lateral))))
            task = Task(token, place, upload, request, digest, ct, second)
            with _anonymous(upload, second, ct):
                yield from self.queue.follow(task, cancelled or threading.Event(), self._generator.steps(request))

    def checked(self, request: GenerationRequest) -> GenerationRequest:
        """Returns the request with validated numbers, and None for an empty choice; UserError out of range."""
        sampler = request.sampler or None
        if sampler is not None and sampler not in self.samplers:
            raise UserError(f"sampler={str(sampler)[:40]}: choose {', '.join(self.samplers)}")
        steps = None if request.steps is None else _whole("steps", request.steps, 1, self.limits.max_steps)
        guidance = None if request.guidance is None else _number("guidance", request.guidance, 0.0, MAX_GUIDANCE)
        if guidance is not None:
            self.pipeline.check_guidance(guidance)
        seed = _whole("seed", request.seed, 0, 2**32 - 1)
        samples = _whole("samples", request.samples, 1, self.limits.max_samples)
        view, align = request.view or None, request.align or None
        if view not in (None, "PA", "AP"):
            raise UserError(f"view={str(view)[:40]}: choose PA or AP, or leave it empty for the view in the file")
        if align not in (None, "lungs", "none"):
            raise UserError(f"align={str(align)[:40]}: choose lungs or none, or leave it empty for that of training")
        return GenerationRequest(sampler, steps, guidance, seed, samples, view, align)

    def _check_lateral(self, lateral: Path | None) -> None:
        if lateral is not None and self.lateral == "none":
            raise UserError("the lateral: this model takes one view; leave it out")
        if lateral is None and self.lateral == "needed":
            raise UserError("the lateral: missing; this model takes a frontal and a lateral X-ray, give both")

    def _accepted(self, xray: Path, lateral: Path | None, place: Path) -> tuple[Path, Path | None]:
        """Copies of the uploads in `place`."""
        second = None if lateral is None else accept_upload(lateral, place, self.limits.xray_bytes, lateral=True)
        return accept_upload(xray, place, self.limits.xray_bytes), second

    def close(self) -> None:
        """Cancels every request, ends the worker and deletes every file."""
        self.queue.close()
        self.store.close()


def _refuse_unfit(pipeline, checkpoint: Path | None) -> None:
    protocol, name = pipeline.protocol, checkpoint or "checkpoint"
    if protocol.get("input") == "volume":
        raise UserError(f"{name}: this model takes volumes; give a checkpoint trained on X-rays")
    if protocol.get("views", 1) > 2:
        raise UserError(
            f"{name}: the model needs {protocol['views']} views and the page takes a frontal and a lateral; give a "
            "checkpoint trained on one or two"
        )
    missing = [key for key in ("window", "volume_size", "extent", "xray_size") if key not in protocol]
    if missing:
        raise UserError(f"{name}: its protocol lacks {', '.join(missing)}; export or train it again")


def _number(name: str, value, least: float, most: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most:
        raise UserError(f"{name}={str(value)[:40]}: give a number from {least:g} to {most:g}")
    return number


def _whole(name: str, value, least: int, most: int) -> int:
    number = _number(name, value, least, most)
    if not number.is_integer():
        raise UserError(f"{name}={number:g}: give a whole number")
    return int(number)


@contextlib.contextmanager
def _anonymous(xray: Path, lateral: Path | None = None, ct: Path | None = None) -> Iterator[None]:
    """Removes paths from user errors, and logs other errors without their message."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for path, name in ((xray, "the X-ray"), (lateral, "the lateral"), (ct, "the CT")):
            text = text.replace(str(path), name) if path else text
        raise type(error)(text) from None
    except Exception as error:
        # the message may quote a file header, the frames cannot
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s in one request, the server still runs\n%s", type(error).__name__, frames)
        raise UserError(f"the request failed ({type(error).__name__}); try another file") from None
