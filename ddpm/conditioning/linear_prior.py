"""A linear prior of the latents from the X-ray, fitted in closed form before training.

Ridge regression maps X-ray pixels to the principal components of the latents. In training the regression without a
case's patient predicts the case (the leave-one-out identity of Allen, "The relationship between variable selection
and data augmentation", 1974, for blocks of cases); otherwise the prior would be more accurate on training cases than
on new patients. A linear map extrapolates without limit, so scores farther from the mean than those of any training
case are shrunk to that distance. Unknown pixels (NaN) have their conditional mean given the known ones.

The deviation grows with the leverage h of the X-ray (`ddpm.conditioning.ridge`): the predictive variance of a ridge
regression is σ² (1 + h) (Hoerl and Kennard 1970; Rasmussen and Williams, "Gaussian Processes for Machine Learning",
2006, section 2.1).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dataset.imaging.unknown_pixels import pooled, split_unknown
from ddpm.conditioning.gaussian_fill import conditional_mean, fit_loadings, known_mean_and_std
from ddpm.conditioning.ridge import (
    RidgeSystem,
    group_roots,
    left_out_residuals,
    packed_length,
    packed_root,
    patient_members,
    root_squares,
)

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-8, 5))  # in units of the mean eigenvalue of the features
MIN_PATIENTS = 3  # of a fit: the penalty is chosen by leaving one out
MIN_STD = 1e-3  # keeps a pixel that is constant in training from dominating
MIN_EIGENVALUE = 1e-6  # of a component of the latents, relative to that of the first
MIN_DEVIATION = 0.02  # of standardised latents, where all training cases are equal


def require_patients(cases: int, patients: int) -> None:
    """Raises a ValueError if there are too few training patients for a linear prior."""
    if patients < MIN_PATIENTS:
        raise ValueError(
            f"{cases} training cases of {patients} patients: the linear prior needs {MIN_PATIENTS} patients; "
            "give more, or model.prior.rank=0"
        )


class LinearPrior(ModelMixin, ConfigMixin):
    """X-rays `(b, v, 1, h, w)` in [0, 1], NaN where unknown, to smooth standardised latents `(b, c, d, h, w)`.

    Args:
        latent_shape: `(c, d, h, w)`.
        views: v of the X-rays.
        pixels: X-rays are averaged down to `(pixels, pixels)`.
        rank: number of principal components of the latents.
        max_side: the prior is predicted on a grid of at most this many voxels per side and interpolated.
        deviation: whether to store the standard deviation of latents around the prior, per voxel.
        hidden: returns a prior of 0 with a deviation of 1, for the part of a training without it.
        fill_rank: principal components of the Gaussian of training X-rays (`ddpm.conditioning.gaussian_fill`) that
            fills unknown pixels; 0 sets them to 0, as in models of earlier versions.
        by_leverage: whether the deviation grows with the leverage of the X-ray; false in models of earlier versions.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: tuple[int, ...],
        views: int = 1,
        pixels: int = 32,
        rank: int = 64,
        max_side: int = 16,
        deviation: bool = False,
        hidden: bool = False,
        fill_rank: int = 0,
        by_leverage: bool = False,
    ):
        super().__init__()
        c, *size = latent_shape
        self.grid = tuple(min(n, max_side) for n in size)
        features, length = views * pixels**2, c * math.prod(self.grid)
        self.register_buffer("pixel_mean", torch.zeros(features))
        self.register_buffer("pixel_std", torch.ones(features))
        self.register_buffer("weight", torch.zeros(features, rank))
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("basis", torch.zeros(rank, length))
        self.register_buffer("penalty", torch.zeros(()))
        self.register_buffer("score_std", torch.ones(rank))  # of the fitted training scores, by component
        self.register_buffer("radius", torch.zeros(()))  # distance of the farthest of them, in these units
        self.register_buffer("std", torch.ones(c, *self.grid) if deviation else None)
        self.register_buffer("fill_loadings", torch.zeros(features, fill_rank) if fill_rank else None)
        self.register_buffer("fill_noise", torch.ones(()) if fill_rank else None)
        half = torch.zeros(packed_length(features), dtype=torch.float16)
        by_leverage = deviation and by_leverage
        self.register_buffer("leverage_root", half if by_leverage else None)
        # 1 / penalty, 1 / n and the mean leverage of left-out training cases
        self.register_buffer("leverage_terms", torch.zeros(3) if by_leverage else None)
        # of the training cases; checkpoints omit them. members: all cases of each case's patient, padded with -1
        for name in ("members", "leverage", "influence", "roots"):
            self.register_buffer(name, None, persistent=False)

    @torch.no_grad()
    def fit(
        self,
        xrays: Float[Tensor, "n v 1 h w"],
        latents: Float[Tensor, "n c d h w"],
        patients: Sequence[str] | None = None,
        scanned: Bool[Tensor, "n 1 d h w"] | None = None,
    ) -> "LinearPrior":
        """Fits on training cases with the penalty of the smallest leave-one-patient-out error.

        Without `patients` every case is another patient. Latents that are not `scanned` get the mean of the cases in
        which they are. Raises a `ValueError` for fewer than three patients.
        """
        n = len(latents)
        members = patient_members(range(n) if patients is None else patients)
        require_patients(n, len(members.unique(dim=0)))
        raw = self._pool(xrays)
        if raw.shape[1] != len(self.pixel_mean):
            raise ValueError(f"X-rays of {xrays.shape[1]} views, the linear prior was made for {self.config.views}")
        mean, std = known_mean_and_std(raw)
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(std.clamp_min(MIN_STD))
        system, z = self._fit_fill(raw)

        scanned = None if scanned is None or scanned.all() else scanned
        if scanned is None:
            targets = torch.cat([self._coarse(chunk.float()).flatten(1) for chunk in latents.split(64)])
            self.mean.copy_(targets.mean(dim=0))
            targets -= self.mean
        else:
            targets = self._scanned_deviations(latents, scanned)
        values, vectors = torch.linalg.eigh((targets @ targets.T).double())
        # repeated volumes lower the rank: rounding alone would make up the components of eigenvalue 0
        rank = min(self.config.rank, n - 1, int((values > MIN_EIGENVALUE * values[-1]).sum()))
        basis = F.normalize(vectors.flip(1)[:, :rank].float().T @ targets, dim=1)
        self.basis.zero_()[:rank].copy_(basis)
        scores = (targets @ basis.T).double()

        rotated, projected = z @ system.vectors, system.vectors.T @ (z.T @ scores)

        def left_out(penalty: float) -> Tensor:
            shrunk = system.inverse_values(penalty)
            return left_out_residuals(scores - rotated @ (shrunk[:, None] * projected), rotated, shrunk, members)

        penalty = min(PENALTIES, key=lambda penalty: left_out(penalty).square().mean().item())
        shrunk, influence = system.inverse_values(penalty), left_out(penalty)
        self.penalty.fill_(penalty)
        self.weight.zero_()[:, :rank].copy_(system.vectors @ (shrunk[:, None] * projected))
        fitted = (rotated @ (shrunk[:, None] * projected)).float()
        self.score_std.fill_(1.0)[:rank].copy_(fitted.std(dim=0).clamp_min(1e-6))
        self.radius.copy_((fitted / self.score_std[:rank]).norm(dim=1).max())
        self.leverage = ((rotated * shrunk) @ system.vectors.T).float().to(self.mean.device)
        self.members = members.to(self.mean.device)
        self.influence = F.pad(influence.float(), (0, self.config.rank - rank)).to(self.mean.device)
        if self.leverage_root is not None:
            root, scale = packed_root(system, penalty)
            self.leverage_root.copy_(root)
            self.leverage_terms.copy_(torch.tensor([scale, 1.0 / n, 0.0]))
            self.roots = group_roots(rotated, shrunk, members).float().to(self.mean.device)
        if self.std is not None:
            self.measure_deviation(xrays, latents, scanned)
        return self

    @torch.no_grad()
    def measure_deviation(
        self,
        xrays: Float[Tensor, "n v 1 h w"],
        latents: Float[Tensor, "n c d h w"],
        scanned: Bool[Tensor, "n 1 d h w"] | None = None,
    ) -> None:
        """Stores the standard deviation of the latents of `fit` around the prior of these X-rays of its cases, and
        the mean leverage of these X-rays.
        """
        squares, count, total = torch.zeros_like(self.std), torch.zeros_like(self.std[:1]), 0.0
        for cases in torch.arange(len(latents)).split(64):
            own = xrays.index_select(0, cases)
            square = (latents.index_select(0, cases).float() - self(own, cases)).square()
            if self.leverage_root is not None:
                total += float(self._leverage(*self._placed(own, cases)).sum())
            if scanned is None:
                squares, count = squares + self._coarse(square).sum(dim=0), count + len(cases)
            else:
                known = scanned.index_select(0, cases).to(square)
                squares += self._coarse(square * known).sum(dim=0)
                count += self._coarse(known).sum(dim=0)
        self.std.copy_((squares / count.clamp_min(1e-6)).sqrt().clamp_min(MIN_DEVIATION))
        if self.leverage_terms is not None:
            self.leverage_terms[2] = total / len(latents)

    def _fit_fill(self, raw: Float[Tensor, "n p"]) -> tuple[RidgeSystem, Float[Tensor, "n p"]]:
        """Fits the Gaussian that fills unknown pixels; the system of the regression, and its features."""
        z = conditional_mean(self._standardised(raw), None, None).double()
        system = RidgeSystem(z.T @ z)  # the intercept is not penalised
        if self.fill_loadings is None:
            return system, z
        loadings, noise = fit_loadings(system.values / (len(z) - 1), system.vectors, self.config.fill_rank)
        self.fill_loadings.copy_(loadings)
        self.fill_noise.copy_(noise)
        if raw.isnan().any():
            z = self._filled(raw).double()
            system = RidgeSystem(z.T @ z)
        return system, z

    def _coarse(self, latents: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(latents, self.grid)

    def _scanned_deviations(self, latents, scanned: Bool[Tensor, "n 1 d h w"]) -> Float[Tensor, "n p"]:
        """Sets `mean` over the scanned latents, and returns their deviations from it, 0 for the others."""
        targets, known = [], []
        for part, marks in zip(latents.split(64), scanned.split(64), strict=True):
            share = self._coarse(marks.float())
            mean = self._coarse(part.float() * marks) / share.clamp_min(1e-6)
            targets.append(mean.flatten(1))
            known.append((share >= 0.5).expand_as(mean).flatten(1))
        targets, known = torch.cat(targets), torch.cat(known)
        self.mean.copy_((targets * known).sum(dim=0) / known.sum(dim=0).clamp_min(1))
        return torch.where(known, targets - self.mean, 0.0)

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run on this object, so that its training cases are known."""
        return self.leverage is not None

    def hide(self, hidden: bool) -> None:
        """Sets `hidden`, which checkpoints store."""
        self.register_to_config(hidden=hidden)

    @torch.no_grad()
    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        """Torch's hook. After a new fit, `influence` is in that fit's basis, whose signs are arbitrary.

        A run of an earlier version that is resumed has no leverage and keeps its constant deviation.
        """
        if self.leverage_root is not None and f"{prefix}leverage_root" not in state_dict:
            self.leverage_root = self.leverage_terms = None
            self.register_to_config(by_leverage=False)
        fitted = None if self.influence is None else self.basis.clone()
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if fitted is not None and not torch.equal(fitted, self.basis):
            self.influence = self.influence @ (fitted @ self.basis.T)

    def forward(
        self, xray: Float[Tensor, "b v 1 h w"], index: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c d h w"]:
        """The prior; with `index`, positions among the cases of `fit`, of the regression without the case's patient.

        Raises a `RuntimeError` for an index before `fit`, as in a loaded model.
        """
        return self._predicted(xray, index)[0]

    def moments(
        self, xray: Float[Tensor, "b v 1 h w"], index: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"] | None]:
        """The prior and its standard deviation, which grows with the leverage of the X-ray; None if not measured.

        `deviation` times sqrt((1 + h) / (1 + mean h of left-out training cases)). h is that of the X-ray itself, also
        where its scores are shrunk; with `index`, in the regression without the case's patient. Unknown pixels
        enter h by their conditional mean alone, so an X-ray that shows less has a smaller h.
        """
        mean, placed = self._predicted(xray, index)
        std = self.deviation(mean)
        if std is None or placed is None or self.leverage_root is None:
            return mean, std
        with torch.autocast(xray.device.type, enabled=False):
            growth = ((1.0 + self._leverage(*placed)) / (1.0 + self.leverage_terms[2])).sqrt()
        return mean, std * growth.view(-1, 1, 1, 1, 1)

    def _predicted(self, xray: Tensor, index: Tensor | None) -> tuple[Tensor, tuple | None]:
        """The prior, and the result of `_placed`; None if hidden."""
        if index is not None and self.leverage is None:
            raise RuntimeError("the linear prior has no training cases: call fit first")
        if self.config.hidden:
            return self.mean.new_zeros(len(xray), *self.config.latent_shape), None
        with torch.autocast(xray.device.type, enabled=False):
            z, own, pull = placed = self._placed(xray, index)
            scores = z @ self.weight
            if own is not None:
                scores = scores - torch.einsum("bm,bmr->br", pull, self.influence[own])
            scores = scores * (1.0 / self._from_mean(scores).clamp_min(1e-12)).clamp_max(1.0)
            latents = self.mean + scores @ self.basis
            c, *size = self.config.latent_shape
            return _resized(latents.unflatten(1, (c, *self.grid)), size), placed

    def _placed(
        self, xray: Tensor, index: Tensor | None
    ) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b m"] | None, Float[Tensor, "b m"] | None]:
        """Features; with `index` also the cases of the patient and their hat values with the X-ray, 0 for padding."""
        z = self._features(xray)
        if index is None:
            return z, None, None
        own = self.members[index]
        pull = torch.einsum("bf,bmf->bm", z, self.leverage[own]) + 1.0 / len(self.leverage)
        return z, own, torch.where(own < 0, 0.0, pull)

    def _leverage(self, z: Tensor, own: Tensor | None, pull: Tensor | None) -> Float[Tensor, " b"]:
        """zᵀ(ZᵀZ + λI)⁻¹z + 1/n; with cases of the patient, of the regression without them (Woodbury identity)."""
        scale, intercept, _ = self.leverage_terms
        found = scale * root_squares(self.leverage_root, z) + intercept
        if own is None:
            return found
        rooted = torch.einsum("bmk,bk->bm", self.roots[own], pull).square()
        return found + torch.where(own < 0, 0.0, rooted).sum(dim=1)

    def deviation(self, prior: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"] | None:
        """Standard deviation of left-out training latents around such priors; None if it was not measured.

        That of an X-ray of mean leverage; `moments` has that of the X-ray itself.
        """
        if self.std is None:
            return None
        if self.config.hidden:
            return torch.ones_like(prior)
        return _resized(self.std[None], prior.shape[2:]).expand_as(prior)

    @torch.no_grad()
    def distance(self, xray: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, " b"]:
        """Distance of X-rays from the training mean in score space; 1 for the farthest training X-ray."""
        with torch.autocast(xray.device.type, enabled=False):
            return self._from_mean(self._features(xray.to(self.mean.device)) @ self.weight)[:, 0]

    def _from_mean(self, scores: Tensor) -> Float[Tensor, "b 1"]:
        return (scores / self.score_std).norm(dim=1, keepdim=True) / self.radius.clamp_min(1e-12)

    def _pool(self, xray: Tensor) -> Float[Tensor, "b p"]:
        return pooled(xray.flatten(0, 1).float(), self.config.pixels).reshape(len(xray), -1)

    def _features(self, xray: Tensor) -> Float[Tensor, "b p"]:
        return self._filled(self._pool(xray))

    def _filled(self, raw: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Standardised pixels; unknown ones have their conditional mean, or are 0 without a Gaussian."""
        if self.fill_loadings is None:
            return self._standardised(split_unknown(raw)[0])
        return conditional_mean(self._standardised(raw), self.fill_loadings, self.fill_noise)

    def _standardised(self, raw: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        return (raw - self.pixel_mean) / self.pixel_std


def _resized(grid: Float[Tensor, "b c d h w"], size: Sequence[int]) -> Float[Tensor, "b c D H W"]:
    if tuple(grid.shape[2:]) == tuple(size):
        return grid
    return F.interpolate(grid, tuple(size), mode="trilinear", align_corners=False)
