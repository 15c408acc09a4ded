"""Messages between the page and the service: a request, progress, a result."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError

MARK = "synthetic, not for diagnosis"  # label on every view of a result

PNG_LEVEL = 1  # of compression: a third of the time of the default, for a few more kilobytes

MAX_SAMPLE_FILES = 32  # samples beyond are part of mean and spread only

# File names of a result with their media types; the server serves no other names.
RESULT_FILES = {
    "volume.nii.gz": "application/gzip",
    "spread.nii.gz": "application/gzip",
    "evidence.nii.gz": "application/gzip",  # of four samples or more
    "truth.nii.gz": "application/gzip",
    **{f"sample_{number}.nii.gz": "application/gzip" for number in range(1, MAX_SAMPLE_FILES + 1)},
    "dicom.zip": "application/zip",
    "animation.gif": "image/gif",
    "settings.json": "application/json",
    "xray.png": "image/png",
    "lateral.png": "image/png",
    "reprojection.png": "image/png",
    "difference.png": "image/png",
    "lungs.png": "image/png",
    "given.png": "image/png",
    "given_lungs.png": "image/png",
}

# Uploads as shown, some with outlines over them; all other files are generated.
REAL_FILES = ("truth.nii.gz", "xray.png", "lateral.png", "given.png", "lungs.png", "given_lungs.png")

ON_REQUEST = ("dicom.zip", "animation.gif")  # made when a client asks for them first (`requested_files`)


class Cancelled(UserError):
    """The caller cancelled the request, or no longer listens."""


class Busy(UserError):
    """The queue is full."""


@dataclass(frozen=True)
class Limits:
    """Limits of waiting requests, of samples and steps per request, and of uploads in bytes."""

    max_queue: int = 16
    max_samples: int = 8
    max_steps: int = 1000
    xray_bytes: int = 64 << 20
    ct_bytes: int = 512 << 20


@dataclass(frozen=True)
class GenerationRequest:
    """Options of one generation; None takes the service's default.

    Attributes:
        sampler: a key of `Service.samplers`.
        steps: evaluations of the network.
        guidance: guidance scale; 1 = none.
        seed: noise seed, 0 to 2³² - 1.
        samples: number of samples; above 1 the result holds their mean and spread.
        view: PA, AP, or None for the view in the file.
        align: lungs, none, or None for the alignment used in training.
    """

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    samples: int = 1
    view: str | None = None
    align: str | None = None


@dataclass(frozen=True)
class Task:
    """A request with its files in `place`, the folder of `token`.

    `sha256` is that of the X-rays as they were uploaded, joined as in a manifest; the copies lack what follows a
    picture.
    """

    token: str
    place: Path
    xray: Path
    request: GenerationRequest
    sha256: str
    truth: Path | None = None
    lateral: Path | None = None  # the second view

    @property
    def xrays(self) -> tuple[Path, ...]:
        """The views, the frontal first."""
        return (self.xray,) if self.lateral is None else (self.xray, self.lateral)


@dataclass(frozen=True)
class Progress:
    """Progress of a request.

    Attributes:
        ahead: requests ahead; 0 while this one runs.
        step, steps: finished and total evaluations of the network.
        seconds_left: None if unknown.
        slices: PNG of an axial, a coronal and a sagittal slice of the latest prediction; None before the first.
    """

    ahead: int
    step: int
    steps: int
    seconds_left: float | None = None
    slices: Path | None = None


@dataclass(frozen=True, kw_only=True)
class XrayComparison:
    """The X-ray of a generated volume beside it.

    Attributes:
        reprojection: mean absolute difference between the DRR of the volume and the X-ray, both in [0, 1]; None if
            the window does not keep line integrals.
        lungs: one line on the lungs of the volume against those in the X-ray; `lungs.png` and `given_lungs.png` show
            both outlines.
        projections: of points of the volume onto X-ray and film (`demo.service.xray_position`).
    """

    reprojection: float | None = None
    lungs: str = ""
    projections: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result(XrayComparison):
    """A generated volume.

    Attributes:
        token: secret name of its folder.
        window: HU window of the model; the viewer disables presets outside.
        nominal: the patient size is unknown, so volumes in ml have no meaning.
        metrics: against the uploaded CT: `{name: {"label", "unit", "value", "digits"}}`, value None if undefined;
            `how` names the resampling of the CT. None without a CT.
        seconds: run time without waiting.
        preview: too few steps, so the spread is too small.
        interval: what the test of input shift of the calibration says of the X-ray; empty without one.
        evidence: one line on the evidence map, or why there is none.
        files: file name to local path.
    """

    token: str
    window: tuple[float, float]
    nominal: bool
    warnings: list[str]
    metrics: dict | None
    seconds: float
    preview: bool = False
    interval: str = ""
    evidence: str = ""
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def urls(self) -> dict[str, str]:
        """File name to URL path, for each file of the result, also those that are made on request."""
        return {name: f"/result/{self.token}/{name}" for name in (*self.files, *ON_REQUEST)}
