"""A linear prior for each subset of the views, for generators that take some of them."""

from collections.abc import Sequence
from itertools import combinations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dataset.imaging.unknown_pixels import present_views
from ddpm.conditioning.linear_prior import LinearPrior


class ViewPriors(ModelMixin, ConfigMixin):
    """X-rays `(b, v, 1, h, w)`, NaN where a view is missing, to the linear prior of their present views.

    Each is a `LinearPrior` of its own, with its own penalty and deviation: the regression on one view is the best
    linear prediction from it, better than that on both views with an estimate of the missing one. Arguments as of
    `LinearPrior`; `views` is at least 2.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: tuple[int, ...],
        views: int = 2,
        pixels: int = 32,
        rank: int = 64,
        max_side: int = 16,
        deviation: bool = False,
        hidden: bool = False,
        fill_rank: int = 0,
        by_leverage: bool = False,
    ):
        super().__init__()
        self.subsets = [list(kept) for n in range(1, views + 1) for kept in combinations(range(views), n)]
        options = (pixels, rank, max_side, deviation, hidden, fill_rank, by_leverage)
        self.priors = nn.ModuleList(LinearPrior(latent_shape, len(kept), *options) for kept in self.subsets)
        marks = torch.tensor([[view in kept for view in range(views)] for kept in self.subsets])
        self.register_buffer("marks", marks, persistent=False)

    @torch.no_grad()
    def fit(
        self,
        xrays: Float[Tensor, "n v 1 h w"],
        latents: Float[Tensor, "n c d h w"],
        patients: Sequence[str] | None = None,
        scanned: Bool[Tensor, "n 1 d h w"] | None = None,
    ) -> "ViewPriors":
        """Fits the prior of each subset, as `LinearPrior.fit`, on training cases with all views."""
        if xrays.shape[1] != self.config.views:
            raise ValueError(f"X-rays of {xrays.shape[1]} views, the linear priors were made for {self.config.views}")
        for kept, prior in zip(self.subsets, self.priors, strict=True):
            prior.fit(xrays[:, kept], latents, patients, scanned)
        return self

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run on this object, so that its training cases are known."""
        return all(prior.fitted for prior in self.priors)

    def hide(self, hidden: bool) -> None:
        """Sets `hidden` of all, which checkpoints store."""
        self.register_to_config(hidden=hidden)
        for prior in self.priors:
            prior.hide(hidden)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments) -> None:
        """Torch's hook, as that of `LinearPrior` for runs of earlier versions."""
        if self.config.by_leverage and f"{prefix}priors.0.leverage_root" not in state_dict:
            self.register_to_config(by_leverage=False)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(
        self, xray: Float[Tensor, "b v 1 h w"], index: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c d h w"]:
        """The prior of the present views; `index` as of `LinearPrior.forward`."""
        return self.moments(xray, index)[0]

    def moments(
        self, xray: Float[Tensor, "b v 1 h w"], index: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"] | None]:
        """The prior and its standard deviation (`LinearPrior.moments`)."""
        found = [prior.moments(xray[:, kept], index) for kept, prior in zip(self.subsets, self.priors, strict=True)]
        means, deviations = zip(*found, strict=True)
        return self._chosen(xray, means), None if deviations[0] is None else self._chosen(xray, deviations)

    def distance(self, xray: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, " b"]:
        """Distance of the present views from the training mean (`LinearPrior.distance`)."""
        xray = xray.to(self.marks.device)
        found = [prior.distance(xray[:, kept]) for kept, prior in zip(self.subsets, self.priors, strict=True)]
        return self._chosen(xray, found)

    def _chosen(self, xray: Tensor, found: Sequence[Tensor]) -> Tensor:
        """Of every row the value for its present views; without a branch, for `torch.export`."""
        present, result = present_views(xray), found[-1]
        for mark, values in zip(self.marks, found, strict=True):
            own = (present == mark).all(dim=1).view(-1, *[1] * (values.ndim - 1))
            result = torch.where(own, values, result)
        return result
