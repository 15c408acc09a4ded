"""Messages between the page and the service: a request, progress, a result."""

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError

MARK = "synthetic, not for diagnosis"  # on every view of a result

# Every file that a result may hold, and so every name that the server gives out.
RESULT_FILES = {
    "volume.nii.gz": "application/gzip",
    "spread.nii.gz": "application/gzip",
    "truth.nii.gz": "application/gzip",
    "dicom.zip": "application/zip",
    "animation.gif": "image/gif",
    "settings.json": "application/json",
    "xray.png": "image/png",
    "reprojection.png": "image/png",
    "difference.png": "image/png",
}


class Cancelled(UserError):
    """The caller cancelled the request, or stopped listening."""


class Busy(UserError):
    """The queue is full."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may wait.

    Attributes:
        max_queue: requests that may wait.
        max_samples, max_steps: the most that one request may ask for.
        xray_megabytes, ct_megabytes: the largest uploads.
    """

    max_queue: int = 16
    max_samples: int = 8
    max_steps: int = 1000
    xray_megabytes: float = 64.0
    ct_megabytes: float = 512.0

    @property
    def xray_bytes(self) -> int:
        """The largest X-ray file."""
        return int(self.xray_megabytes * 2**20)

    @property
    def ct_bytes(self) -> int:
        """The largest CT file."""
        return int(self.ct_megabytes * 2**20)


@dataclass(frozen=True)
class GenerationRequest:
    """Options of one generation; None takes the service's default.

    Attributes:
        sampler: a key of `Service.samplers`.
        steps: evaluations of the network.
        guidance: 1 = as trained.
        seed: of the noise, 0 to 2³² - 1.
        samples: above 1 the result is their mean, with their spread beside it.
        view: PA, AP, or None: as the file says.
        align: lungs, none, or None: as training did.
    """

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    samples: int = 1
    view: str | None = None
    align: str | None = None


@dataclass(frozen=True)
class XrayPreview:
    """An X-ray as the model sees it.

    Attributes:
        picture: PNG with its side marks; kept as long as a result.
        orientation: one line: view, where it is from, how the film was laid.
        warnings: a line each; empty for a frontal film like those of training.
    """

    picture: Path
    orientation: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """Progress of a request.

    Attributes:
        ahead: requests that come before; 0 while this one is processed.
        step, steps: evaluations of the network done and in all.
        seconds_left: None where it is not known yet.
        slices: PNG of an axial, a coronal and a sagittal slice of the newest prediction; None before the first.
    """

    ahead: int
    step: int
    steps: int
    seconds_left: float | None = None
    slices: Path | None = None


@dataclass(frozen=True)
class Result:
    """A generated volume.

    Attributes:
        token: the only key to its files.
        window: HU of the model; presets outside of it mean nothing.
        nominal: the size of the patient is not known, so no volume in ml can be read off.
        phantom: the anatomy is a drawing.
        metrics: against the uploaded CT, `{name: {"label", "unit", "value", "digits"}}` with a value of None where it
            has no meaning, and `how` the CT was brought to the grid; None without a CT.
        seconds: that it took, without waiting.
        preview: of so few steps that the spread is too small.
        reprojection: mean difference of the volume's own X-ray from the given one, both in [0, 1]; None where the
            window allows none.
        files: name to the file on this machine, for the page's downloads.
    """

    token: str
    window: tuple[float, float]
    nominal: bool
    phantom: bool
    warnings: list[str]
    metrics: dict | None
    seconds: float
    preview: bool = False
    reprojection: float | None = None
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def urls(self) -> dict[str, str]:
        """Name in `RESULT_FILES` to the address on this server, for each file of the result."""
        return {name: f"/result/{self.token}/{name}" for name in self.files}

    @property
    def mark(self) -> str:
        """The text on every view."""
        return MARK

    @property
    def spread_name(self) -> str:
        """What the overlay shows: `spread`, or "" without one. The page shows no intervals."""
        return "spread" if "spread.nii.gz" in self.files else ""
