"""Estimates the pose of X-rays of unknown pose by regression from pixels, and aligns them to the nominal pose.

A ridge regression from pixels to the patient's displacement is fitted in closed form on DRRs of the training CTs at
random poses. Each round aligns the X-ray by the estimate so far and regresses the remainder (Dollár, Welinder, Perona,
"Cascaded pose regression", CVPR 2010). Alignment resamples the X-ray so that it shows the patient's plane through the
isocentre as the nominal pose does. It cannot remove angles: they go into the pose of the lifted features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dataset.imaging.geometry import camera_axes, project
from dataset.imaging.unknown_pixels import pooled, resampled
from ddpm.conditioning.ridge import ridge

FIELDS = ("distance", "azimuth", "elevation", "centre_d", "centre_h", "centre_w")  # share of the distance, degrees, mm
LIMITS = (0.1, 5.0, 5.0, 15.0, 15.0, 15.0)
FOLDS = 5  # the regression of the other folds predicts a training X-ray
MIN_PATIENTS = 2 * FOLDS
OVERSAMPLING = 2  # X-rays are aligned at this many times the pixels of the regression
MIN_STD = 1e-3  # keeps a pixel that is constant in training from dominating


class PoseRegressor(ModelMixin, ConfigMixin):
    """X-rays `(b, v, 1, h, w)` of unknown pose, aligned to the nominal one, and their poses with the estimated angles.

    Args:
        azimuths: of each view's nominal pose, in degrees. Each view has its own regression; an X-ray of another
            azimuth, such as AP among PA X-rays, stays unchanged.
        pixels: X-rays are averaged down to `(pixels, pixels)`.
        limits: of the estimates, in the units of `FIELDS`.
        rounds: of regression and alignment. From the second on, the regression without a patient is fitted on X-rays
            that regressions with this patient may have aligned.
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
        # regressions without each fold, and the fold of each training case (FOLDS: none); checkpoints omit them
        for name in ("fold_weight", "fold_bias", "fold"):
            self.register_buffer(name, None, persistent=False)

    @torch.no_grad()
    def fit(
        self,
        xrays: Float[Tensor, "n v 1 h w"],
        nominal: Float[Tensor, "n v 9"],
        drawn: Float[Tensor, "n v 9"],
        patients: Sequence[str],
        cases: Sequence[str],
    ) -> dict[str, list[float]]:
        """Fits on DRRs at known poses; returns the out-of-fold R² of every field in every view.

        Args:
            nominal, drawn: assumed poses, and true poses.
            patients: of the DRRs, at least `MIN_PATIENTS`.
            cases: patient of each training case; `forward` takes positions among them.
        """
        fits = self.covers(nominal).all(dim=1)
        xrays, nominal, drawn = xrays[fits], nominal[fits], drawn[fits]
        patients = [patient for patient, chosen in zip(patients, fits.tolist(), strict=True) if chosen]
        names = {patient: k % FOLDS for k, patient in enumerate(dict.fromkeys(patients))}
        if len(names) < MIN_PATIENTS:
            raise ValueError(
                f"{len(names)} training patients: the pose regressor needs {MIN_PATIENTS}; set "
                "model.pose_regressor=false"
            )
        device = self.weight.device
        self.fold = torch.tensor([names.get(patient, FOLDS) for patient in cases], device=device)
        fold = torch.tensor([names[patient] for patient in patients])
        xrays = torch.cat([pooled(part.float(), OVERSAMPLING * self.config.pixels) for part in xrays.split(64)])
        truth, estimate = _offsets(nominal, drawn), torch.zeros(len(xrays), xrays.shape[1], len(FIELDS))
        self.fold_weight = torch.zeros(FOLDS + 1, *self.weight.shape, device=device)
        self.fold_bias = torch.zeros(FOLDS + 1, *self.bias.shape, device=device)
        for k in range(self.config.rounds):
            parts = zip(xrays.split(64), nominal.split(64), estimate.split(64), strict=True)
            raw = torch.cat([pooled(align(*part), self.config.pixels) for part in parts]).flatten(2)
            for view in range(raw.shape[1]):
                features, remainder = raw[:, view], (truth - estimate)[:, view]
                mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(MIN_STD)
                self.pixel_mean[k, view], self.pixel_std[k, view] = mean, std
                weights, intercepts, out_of_fold = ridge(((features - mean) / std).double(), remainder.double(), fold)
                self.fold_weight[:, k, view], self.fold_bias[:, k, view] = weights.float(), intercepts.float()
                estimate[:, view] += out_of_fold.float()
            estimate = self._limited(estimate)
        self.weight.copy_(self.fold_weight[FOLDS])
        self.bias.copy_(self.fold_bias[FOLDS])
        unexplained = (truth - estimate).square().mean(dim=0) / truth.var(dim=0).clamp_min(1e-12)
        return {name: (1.0 - unexplained)[:, i].tolist() for i, name in enumerate(FIELDS)}

    @torch.no_grad()
    def forward(
        self,
        xray: Float[Tensor, "b v 1 h w"],
        pose: Float[Tensor, "b v 9"],
        unknown: Bool[Tensor, "b v"],
        index: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b v 1 h w"], Float[Tensor, "b v 9"]]:
        """Aligned X-rays and their poses; an X-ray of known pose, or of a view that was not fitted, stays unchanged.

        Args:
            pose: complete, nominal where it is unknown (`dataset.imaging.geometry.fill_unknown`).
            index: positions among the training cases, to use the regressions without their patients; after `fit` only.
        """
        unknown = unknown & self.covers(pose)
        with torch.autocast(xray.device.type, enabled=False):
            offsets = self.offsets(xray, pose, index)
            aligned = align(xray.float(), pose, offsets).to(xray.dtype)
        turned = pose.clone()
        turned[..., 2:4] += offsets[..., 1:3]
        unknown = unknown[..., None]
        return torch.where(unknown[..., None, None], aligned, xray), torch.where(unknown, turned, pose)

    def align_batch(self, batch: dict, training: bool) -> dict:
        """A batch with its X-rays aligned where `unknown` `(b, v)` is true; its poses are complete.

        `training` says whether the batch's `index` counts training cases; a loaded model ignores it.
        """
        index = batch["index"] if training and self.fold is not None else None
        xray, pose = self(batch["xray"], batch["pose"], batch["unknown"], index)
        return {**batch, "xray": xray, "pose": pose}

    @torch.no_grad()
    def offsets(
        self, xray: Float[Tensor, "b v 1 h w"], pose: Float[Tensor, "b v 9"], index: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b v 6"]:
        """Estimated displacement of each X-ray from its nominal pose, in `FIELDS`, within the limits."""
        if xray.shape[1] != len(self.azimuth):
            raise ValueError(f"X-rays of {xray.shape[1]} views, the pose regressor was made for {len(self.azimuth)}")
        if index is not None and self.fold_weight is None:
            raise RuntimeError("the pose regressor has no training cases: call fit first")
        weight, bias = (own.expand(len(xray), *own.shape) for own in (self.weight, self.bias))
        if index is not None:
            weight, bias = self.fold_weight[self.fold[index]], self.fold_bias[self.fold[index]]
        small = pooled(xray.float(), OVERSAMPLING * self.config.pixels)
        found = torch.zeros(*xray.shape[:2], len(FIELDS), device=xray.device)
        for k in range(self.config.rounds):
            raw = pooled(align(small, pose, found), self.config.pixels).flatten(2)
            z = ((raw - self.pixel_mean[k]) / self.pixel_std[k]).nan_to_num(0.0)  # unknown: the mean
            found = self._limited(found + bias[:, k] + torch.einsum("bvf,bvfo->bvo", z, weight[:, k]))
        return found

    def estimated_pose(self, xray: Float[Tensor, "b v 1 h w"], pose: Float[Tensor, "b v 9"]) -> Float[Tensor, "b v 9"]:
        """The estimated pose of X-rays as they are given, not aligned; `pose` is complete, as for `forward`."""
        moved = _applied(pose, self.offsets(xray, pose))
        return torch.where(self.covers(pose)[..., None], moved, pose)

    def covers(self, pose: Float[Tensor, "b v 9"]) -> Bool[Tensor, "b v"]:
        """Whether X-rays of these nominal poses have the azimuths that the regressions were fitted on."""
        return (pose[..., 2] - self.azimuth).abs() < 1.0

    def _limited(self, offsets: Tensor) -> Tensor:
        return offsets.clamp(-self.reach, self.reach)


def align(
    xray: Float[Tensor, "b v 1 h w"], pose: Float[Tensor, "b v 9"], offsets: Float[Tensor, "b v 6"]
) -> Float[Tensor, "b v 1 h w"]:
    """X-rays displaced from their nominal `pose` by `offsets`, resampled to show the isocentre plane as in `pose`.

    The angles of the offsets stay in the X-ray. Pixels outside the field repeat its border; unknown ones stay unknown.
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
    options = {"grid": grids.to(xray.dtype), "padding_mode": "border", "align_corners": False}
    return resampled(xray.flatten(0, 1), lambda image: F.grid_sample(image, **options)).unflatten(0, (b, v))


def _offsets(nominal: Float[Tensor, "n v 9"], drawn: Float[Tensor, "n v 9"]) -> Float[Tensor, "n v 6"]:
    distance = drawn[..., :1] / nominal[..., :1] - 1.0
    return torch.cat([distance, drawn[..., 2:7] - nominal[..., 2:7]], dim=-1)


def _applied(pose: Float[Tensor, "b v 9"], offsets: Float[Tensor, "b v 6"]) -> Float[Tensor, "b v 9"]:
    """The inverse of `_offsets`: the detector keeps its size and its distance to the patient."""
    further = pose[..., :1] * offsets[..., :1]
    return torch.cat([pose[..., :2] + further, pose[..., 2:7] + offsets[..., 1:], pose[..., 7:]], dim=-1)
