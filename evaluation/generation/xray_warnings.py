"""Warnings about an X-ray, and the re-projection of its volume: the same for command, page, Python and settings."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from dataset.imaging.forward_model import ForwardModel
from dataset.imaging.geometry import fill_unknown
from ddpm.conditioning.pose_regressor import PoseRegressor
from evaluation.metrics.reprojection import reprojection_error, scaled_drr

MAX_DISTANCE = 1.2  # from the mean training X-ray, in units of the farthest training X-ray
MAX_STRETCH = 1.1  # of an alignment: height against width, either way
NO_LUNGS = "no lungs found"
INVERTED = "the file is inverted (dark bone): converted to bright bone"
TURNS = (  # notes of the DICOM reader
    "rows and columns exchanged",
    "left and right exchanged",
    "front and back exchanged",
    "turned upside down",
)

ASSUMED = (  # about the figure of `reproject`
    "the grey scale of the X-ray, and its pose unless given, are assumed and the floor is unknown: not comparable "
    "with the re-projection error of an evaluation"
)


def input_warnings(given, pipeline, notes: Sequence[str] = (), not_frontal: str | None = None) -> list[str]:
    """Warnings about a `GeneratorInput`; empty for a frontal X-ray like those of training.

    Args:
        notes: of the reader of the file.
        not_frontal: why the picture is no frontal chest X-ray (`dataset.imaging.frontal_check`).
    """
    found = [INVERTED] if any(note.startswith("inverted") for note in notes) else []
    if turns := [note for note in notes if note in TURNS]:
        found.append(f"the file is not in the orientation of the display: {', '.join(turns)}")
    found += [not_frontal] if not_frontal else []
    if posed := given.notes.get("pose_view"):
        view = given.notes["view"]
        found.append(
            f"a view {view}, which the training did not show: taken as {posed}; sizes of the heart may be wrong"
        )
    alignment = given.notes.get("alignment", {})
    if alignment.get("reason") == NO_LUNGS:
        found.append(f"{NO_LUNGS}: the X-ray is not aligned; check it")
    down, across = alignment.get("scale", (1.0, 1.0))
    if max(down / across, across / down) > MAX_STRETCH:
        share = 100 * (down / across - 1)
        how = f"{'stretched' if share > 0 else 'squeezed'} by {abs(share):.0f} % in height against its width"
        found.append(
            f"the X-ray was {how} to fit the average lungs of the training; heart and diaphragm may be distorted"
        )
    distance = training_distance(given, pipeline)
    if distance is not None and distance > MAX_DISTANCE:
        found.append(
            f"unlike the training X-rays: {distance:.1f} times as far from their mean as the farthest of them; the "
            "volume will show more of the training data than of this patient"
        )
    return found


def contradiction(chi2: float | None, pipeline) -> str | None:
    """Warning about an X-ray of known pose that contradicts what the network predicts from it; None for others.

    Args:
        chi2: per pixel, of the network's first prediction against the X-ray; None where it is not known.
    """
    part = getattr(pipeline, "consistency", None)
    if part is None or chi2 is None or chi2 <= float(part.limit):
        return None
    remedy = "check its pose and grey scale"
    if pipeline.consistent is not False:
        remedy += ", or set sampler.consistency=off, which leaves the volume to the network"
    return (
        f"chi² {chi2:.2f} of the first prediction against the X-ray, above {float(part.limit):.2f}, the limit of 99 % "
        "of the training X-rays: its pose, grey scale or noise may be others than the model's, or the patient unlike "
        f"those of the training; {remedy}"
    )


def training_distance(given, pipeline) -> float | None:
    """Distance from the mean training X-ray in units of the farthest one; None without a linear prior."""
    if pipeline.prior is None:
        return None
    aligned, _ = aligned_views(given, pipeline.pose_regressor)  # as the prior was fitted
    return round(float(pipeline.prior.distance(aligned[None, :, None])), 3)


def reproject(
    given, mean: Float[Tensor, "d h w"], spacing, pipeline
) -> tuple[Float[Tensor, "h w"] | None, float | None]:
    """DRR of a volume at the pose of its X-ray, and their mean absolute difference in [0, 1].

    The DRR is by the forward model of the training data's DRRs; where they have none (radiographs), by the default.
    The X-ray may have been made otherwise (`ASSUMED`). None for both if no volume can be compared with such X-rays
    (those of phantoms lack the contrast medium), the window does not keep line integrals, nothing attenuates, the
    input is a volume, or no DRR renderer is installed.
    """
    model = ForwardModel.of_drrs(pipeline.protocol) or ForwardModel()
    if model.why_not_applicable:
        return None, None
    if not pipeline.window.keeps_line_integrals or pipeline.protocol.get("input") == "volume":
        return None, None
    xray, poses = aligned_views(given, pipeline.pose_regressor)
    try:
        drr = scaled_drr(
            mean, tuple(spacing), tuple(poses[0].tolist()), tuple(xray.shape[-2:]), ~xray[0].isnan(), model
        )
    except ModuleNotFoundError:
        return None, None
    if drr.isnan().all():
        return None, None
    return drr, round(float(reprojection_error(drr, xray[0])), 4)


def aligned_views(given, regressor: PoseRegressor | None) -> tuple[Float[Tensor, "v h w"], Float[Tensor, "v 9"]]:
    """X-rays and poses as the denoiser receives them; the regressor predicts unknown poses."""
    pose = fill_unknown(given.pose, tuple(given.extent))
    if regressor is None:
        return given.xray, pose
    arguments = (given.xray[None, :, None], pose[None], given.pose.isnan().any(dim=-1)[None])
    xray, predicted = regressor(*(part.to(regressor.weight.device) for part in arguments))
    return xray[0, :, 0].cpu(), predicted[0].cpu()
