"""A guess of how the patient stood when an X-ray of unknown pose was taken, and the X-ray laid accordingly.

Where nobody wrote the pose down, features lifted along the nominal rays, and a linear guess from pixels, are off by as
much as the patient stood off. But the picture tells much of it: a ridge regression from its pixels, fitted in closed
form on DRRs of the training CTs at drawn poses, reads nearly all of a shift along the body and most of one across.
Each round lays the picture by what the rounds before have guessed, and reads what is left (Dollár, Welinder, Perona,
"Cascaded pose regression", CVPR 2010).

What lies in the plane of the detector is taken out of the picture: the patient's plane through the isocentre comes to
lie where the nominal pose would have shown it. The angles cannot be taken out of a picture: they go into its pose,
along whose rays features are lifted.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dataset.imaging.geometry import camera_axes, project
from ddpm.conditioning.ridge import ridge

FIELDS = ("distance", "azimuth", "elevation", "centre_d", "centre_h", "centre_w")  # share of the distance, degrees, mm
LIMITS = (0.1, 5.0, 5.0, 15.0, 15.0, 15.0)
FOLDS = 5  # a training X-ray is guessed by the regression of the folds without its patient
LEAST_PATIENTS = 2 * FOLDS
FINER = 2  # pictures are laid with so many times the pixels that are read
LEAST_STD = 1e-3  # a pixel that never varies in training says nothing


class PoseRegressor(ModelMixin, ConfigMixin):
    """X-rays `(b, v, 1, h, w)` of unknown pose, laid as nominal ones, and their poses with the guessed angles.

    Args:
        azimuths: of each view's nominal pose, in degrees. Each view has its own regression, and an X-ray of another
            azimuth, as AP among PA ones, is left as it is: it would be read wrongly.
        pixels: X-rays are averaged down to `(pixels, pixels)`.
        limits: of the guesses, in the units of `FIELDS`.
        rounds: of guessing and laying; a third one adds nothing. From the second on, the regression without a patient
            is fitted on pictures laid by regressions that may have seen them.
    """

    @register_to_config
    def __init__(
        self,
        azimuths: tuple[float, ...] = (0.0,),
        pixels: int = 32,
        limits: tuple[float, ...] = LIMITS,
        rounds: int = 2,
    ):
        super().__init__()
        views = len(azimuths)
        shape = (rounds, views, pixels**2)
        self.register_buffer("pixel_mean", torch.zeros(shape))
        self.register_buffer("pixel_std", torch.ones(shape))
        self.register_buffer("weight", torch.zeros(*shape, len(FIELDS)))
        self.register_buffer("bias", torch.zeros(rounds, views, len(FIELDS)))
        self.register_buffer("azimuth", torch.tensor(azimuths, dtype=torch.float32), persistent=False)
        self.register_buffer("reach", torch.tensor(limits), persistent=False)
        # without a patient's fold; only its own training needs them, so no checkpoint holds them
        self.register_buffer("fold_weight", None, persistent=False)
        self.register_buffer("fold_bias", None, persistent=False)
        self.register_buffer("fold", None, persistent=False)  # of each training case; FOLDS: in none

    @torch.no_grad()
    def fit(
        self,
        xrays: Float[Tensor, "n v 1 h w"],
        nominal: Float[Tensor, "n v 9"],
        drawn: Float[Tensor, "n v 9"],
        patients: Sequence[str],
        cases: Sequence[str],
    ) -> dict[str, list[float]]:
        """Fits on DRRs at known poses.

        Args:
            nominal, drawn: the poses that they are taken for, and those that they were taken at.
            patients: of the DRRs.
            cases: patient of each training case, by whose position `forward` is asked.

        Returns:
            Of each field, for each view, the share of its variance that is read of patients not fitted on.

        Raises:
            ValueError: for fewer patients than folds.
        """
        fits = self.covers(nominal).all(dim=1)
        xrays, nominal, drawn = xrays[fits], nominal[fits], drawn[fits]
        patients = [patient for patient, chosen in zip(patients, fits.tolist(), strict=True) if chosen]
        names = {patient: k % FOLDS for k, patient in enumerate(dict.fromkeys(patients))}
        if len(names) < LEAST_PATIENTS:
            raise ValueError(
                f"{len(names)} training patients: the guess of the pose needs {LEAST_PATIENTS}; "
                "set model.pose_guess=false"
            )
        device = self.weight.device
        self.fold = torch.tensor([names.get(patient, FOLDS) for patient in cases], device=device)
        fold = torch.tensor([names[patient] for patient in patients])
        xrays = torch.cat([_pooled(part, FINER * self.config.pixels) for part in xrays.split(64)])
        truth, guess = _offsets(nominal, drawn), torch.zeros(len(xrays), xrays.shape[1], len(FIELDS))
        self.fold_weight = torch.zeros(FOLDS + 1, *self.weight.shape, device=device)
        self.fold_bias = torch.zeros(FOLDS + 1, *self.bias.shape, device=device)
        for k in range(self.config.rounds):
            parts = zip(xrays.split(64), nominal.split(64), guess.split(64), strict=True)
            raw = torch.cat([_pooled(align(*part), self.config.pixels) for part in parts]).flatten(2)
            for view in range(raw.shape[1]):
                seen, left = raw[:, view], (truth - guess)[:, view]
                mean, std = seen.mean(dim=0), seen.std(dim=0).clamp_min(LEAST_STD)
                self.pixel_mean[k, view], self.pixel_std[k, view] = mean, std
                weights, intercepts, unseen = ridge(((seen - mean) / std).double(), left.double(), fold)
                self.fold_weight[:, k, view], self.fold_bias[:, k, view] = weights.float(), intercepts.float()
                guess[:, view] += unseen.float()
            guess = self._limited(guess)
        self.weight.copy_(self.fold_weight[FOLDS])
        self.bias.copy_(self.fold_bias[FOLDS])
        missed = (truth - guess).square().mean(dim=0) / truth.var(dim=0).clamp_min(1e-12)
        return {name: (1.0 - missed)[:, i].tolist() for i, name in enumerate(FIELDS)}

    @torch.no_grad()
    def forward(
        self,
        xray: Float[Tensor, "b v 1 h w"],
        pose: Float[Tensor, "b v 9"],
        unknown: Bool[Tensor, "b v"],
        index: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b v 1 h w"], Float[Tensor, "b v 9"]]:
        """X-rays laid and their poses; those whose pose is known, or of a view that was not fitted, stay as they are.

        Args:
            pose: complete, the nominal one where it is unknown (`dataset.imaging.geometry.fill_unknown`).
            index: positions among the training cases, each then guessed without its patient.

        Raises:
            RuntimeError: for an index before `fit`, as in a model that was loaded.
        """
        unknown = unknown & self.covers(pose)
        with torch.autocast(xray.device.type, enabled=False):
            guess = self.offsets(xray, pose, index)
            aligned = align(xray.float(), pose, guess).to(xray.dtype)
        turned = pose.clone()
        turned[..., 2:4] += guess[..., 1:3]
        return torch.where(unknown[..., None, None, None], aligned, xray), torch.where(
            unknown[..., None], turned, pose
        )

    def align_batch(self, batch: dict, training: bool) -> dict:
        """A batch with `unknown` `(b, v)` and complete poses, its X-rays of unknown pose laid.

        Args:
            training: its `index` counts training cases, which a model that was fitted elsewhere does not know.
        """
        index = batch["index"] if training and self.fold is not None else None
        xray, pose = self(batch["xray"], batch["pose"], batch["unknown"], index)
        return {**batch, "xray": xray, "pose": pose}

    @torch.no_grad()
    def offsets(
        self, xray: Float[Tensor, "b v 1 h w"], pose: Float[Tensor, "b v 9"], index: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b v 6"]:
        """How each X-ray was taken off its nominal pose, in `FIELDS`, within the limits.

        Raises:
            ValueError: for X-rays of another number of views.
            RuntimeError: for an index before `fit`.
        """
        if xray.shape[1] != len(self.azimuth):
            raise ValueError(
                f"X-rays of {xray.shape[1]} views, the guess of the pose was made for {len(self.azimuth)}"
            )
        if index is not None and self.fold_weight is None:
            raise RuntimeError("the guess of the pose does not know its training cases: call fit first")
        weight, bias = (own.expand(len(xray), *own.shape) for own in (self.weight, self.bias))
        if index is not None:
            weight, bias = self.fold_weight[self.fold[index]], self.fold_bias[self.fold[index]]
        small = _pooled(xray.float(), FINER * self.config.pixels)
        guess = torch.zeros(*xray.shape[:2], len(FIELDS), device=xray.device)
        for k in range(self.config.rounds):
            raw = _pooled(align(small, pose, guess), self.config.pixels).flatten(2)
            z = (raw - self.pixel_mean[k]) / self.pixel_std[k]
            guess = self._limited(guess + bias[:, k] + torch.einsum("bvf,bvfo->bvo", z, weight[:, k]))
        return guess

    def covers(self, pose: Float[Tensor, "b v 9"]) -> Bool[Tensor, "b v"]:
        """Whether X-rays of these nominal poses are of the views that it reads."""
        return (pose[..., 2] - self.azimuth).abs() < 1.0

    def _limited(self, guess: Tensor) -> Tensor:
        return guess.clamp(-self.reach, self.reach)


def align(
    xray: Float[Tensor, "b v 1 h w"], pose: Float[Tensor, "b v 9"], offsets: Float[Tensor, "b v 6"]
) -> Float[Tensor, "b v 1 h w"]:
    """X-rays taken off their nominal `pose` by `offsets`, with the plane through the isocentre as it would show it.

    Angles stay: what is laid is what the nominal pose, turned by them, shows. An edge goes on outward.
    """
    b, v = xray.shape[:2]
    nominal, moved = pose.flatten(0, 1), _applied(pose, offsets).flatten(0, 1)
    turned = torch.cat([nominal[:, :2], moved[:, 2:4], nominal[:, 4:]], dim=1)
    axes = [(torch.arange(n, device=xray.device, dtype=torch.float32) + 0.5) * 2.0 / n - 1.0 for n in xray.shape[-2:]]
    down, across = torch.meshgrid(*axes, indexing="ij")

    def grid(turned: Float[Tensor, "9"], moved: Float[Tensor, "9"]) -> Float[Tensor, "h w 2"]:
        _, column, row = camera_axes(turned)
        height, width = turned[7:9] * turned[1] / turned[0] / 2.0  # half the field, at the isocentre
        plane = across[..., None] * width * column + down[..., None] * height * row
        return project(turned[4:7] + plane, moved)

    grids = torch.func.vmap(grid)(turned.float(), moved.float())
    laid = F.grid_sample(xray.flatten(0, 1), grids.to(xray.dtype), padding_mode="border", align_corners=False)
    return laid.unflatten(0, (b, v))


def _offsets(nominal: Float[Tensor, "n v 9"], drawn: Float[Tensor, "n v 9"]) -> Float[Tensor, "n v 6"]:
    distance = drawn[..., :1] / nominal[..., :1] - 1.0
    return torch.cat([distance, drawn[..., 2:7] - nominal[..., 2:7]], dim=-1)


def _applied(pose: Float[Tensor, "b v 9"], offsets: Float[Tensor, "b v 6"]) -> Float[Tensor, "b v 9"]:
    """The inverse of `_offsets`: the detector keeps its size and its distance to the patient."""
    further = pose[..., :1] * offsets[..., :1]
    return torch.cat([pose[..., :2] + further, pose[..., 2:7] + offsets[..., 1:], pose[..., 7:]], dim=-1)


def _pooled(xray: Float[Tensor, "b v 1 h w"], pixels: int) -> Float[Tensor, "b v 1 p p"]:
    return F.adaptive_avg_pool2d(xray.flatten(0, 1).float(), pixels).unflatten(0, xray.shape[:2])
