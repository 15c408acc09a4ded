"""What every latent encoder of CT does: raw volume to raw latents to whitened latents, and back, frozen.

The whitening per channel lives inside the encoder (as in Karras et al., "Analyzing and Improving the Training Dynamics
of Diffusion Models", 2024): the denoiser sees about zero mean and unit deviation, and no range is typed into a config.
"""

import hashlib
import json
from collections.abc import Iterable

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float
from torch import Tensor


class LatentEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders. A subclass calls `_make_statistics(channels)` and writes `encode_raw` and `decode_raw`.

    Volumes are `(b, 1, D, H, W)` in [-1, 1]; latents `(b, c, d, h, w)`.
    """

    found_at: str | None = None  # the checkpoint of this project that it was made of
    trained_on: dict = {}  # `key=path` of the checkpoint it came from, with its protocol; empty for public weights
    slicewise = False  # whether each slice along D is encoded and decoded by itself

    def _make_statistics(self, channels: int) -> None:
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def encode_raw(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Latents as the network gives them: the mean of a posterior, never a sample of it."""
        raise TypeError(f"{type(self).__name__} has no encode_raw")

    def decode_raw(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Volume of raw latents, not clipped."""
        raise TypeError(f"{type(self).__name__} has no decode_raw")

    def set_scaling(self, scaling: str) -> "LatentEncoder":
        """What `measure` makes of latents: `unit` variance a channel, or the `range` [-1, 1] over all of them.

        The range is what the first models of this kind used; it shrinks latents to a deviation of about 0.1 and is
        here to compare with.

        Raises:
            ValueError: for another word.
        """
        if scaling not in ("unit", "range"):
            raise ValueError(f"model.latent_scaling={scaling}: choose unit or range")
        self._scaling = scaling
        return self

    def measure(self, raw: Float[Tensor, "n c d h w"] | Iterable[Float[Tensor, "m c d h w"]]) -> None:
        """Stores mean and standard deviation per channel of raw training latents (or as `set_scaling` says).

        Args:
            raw: all of them, or parts of them in turn where all at once are too many.
        """
        if not isinstance(raw, Tensor):
            low, high, mean, std = _summary(raw)
            if getattr(self, "_scaling", "unit") == "range":
                mean, std = ((low + high) / 2).expand_as(mean), ((high - low) / 2).expand_as(std)
        elif getattr(self, "_scaling", "unit") == "range":
            low, high = raw.amin().float(), raw.amax().float()
            mean, std = ((low + high) / 2).expand(raw.shape[1]), ((high - low) / 2).expand(raw.shape[1])
        else:
            std, mean = torch.std_mean(raw.float(), dim=(0, 2, 3, 4))
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp_min(1e-6))
        self.measured.fill_(True)

    def standardise(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """Raw to whitened latents.

        Raises:
            RuntimeError: before `measure`.
        """
        if not self.measured:
            raise RuntimeError("latent statistics were not measured: call measure(raw training latents) first")
        return (raw - _channels(self.latent_mean)) / _channels(self.latent_std)

    def unstandardise(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """Inverse of `standardise`."""
        return latents * _channels(self.latent_std) + _channels(self.latent_mean)

    @torch.no_grad()
    def encode(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Whitened latents of volumes in [-1, 1]."""
        return self.standardise(self.encode_raw(volume))

    def decode(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Volumes in [-1, 1] of whitened latents; differentiable, so that losses on the volume reach the denoiser."""
        return self.decode_raw(self.unstandardise(latents)).clamp(-1.0, 1.0)

    @torch.no_grad()
    def latent_shape(self, volume_size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """`(c, d, h, w)` of the latents of a volume, found by encoding one that has a shape and no memory."""
        known = self.__dict__.setdefault("_shapes", {})
        if volume_size not in known:
            with torch.device("meta"):
                shadow = type(self)(**{k: v for k, v in self.config.items() if not k.startswith("_")})
                known[volume_size] = tuple(shadow.encode_raw(torch.zeros(1, 1, *volume_size)).shape[1:])
        return known[volume_size]

    @torch.no_grad()
    def reconstruct(self, volume: Float[Tensor, "b 1 D H W"], slices: int = 8) -> tuple[Tensor, Tensor]:
        """What survives encoding: (volume, decode(encode(volume))) in [-1, 1].

        A slicewise encoder takes `slices` evenly spaced slices of it, which tell as much in less time. Statistics
        need not be measured.
        """
        if self.slicewise and volume.shape[2] > slices:
            index = torch.linspace(0, volume.shape[2] - 1, slices, device=volume.device).round().long()
            volume = volume.index_select(2, index)
        return volume, self.decode_raw(self.encode_raw(volume)).float().clamp(-1.0, 1.0)

    def fingerprint(self) -> str:
        """16 hex digits that change with any weight or setting but not with the statistics: keys cached latents."""
        ignored = (
            "source",
            "slices_per_batch",
            "tile",
            "halo",
        )  # where it came from, how it is batched: not what it computes
        settings = {k: v for k, v in dict(self.config).items() if not k.startswith("_") and k not in ignored}
        digest = hashlib.sha256(f"{type(self).__name__} {json.dumps(settings, sort_keys=True)}".encode())
        for name, value in sorted(self.state_dict().items()):
            if name not in ("latent_mean", "latent_std", "measured"):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _summary(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lowest and highest value, mean and deviation per channel, over all parts."""
    lows, highs, sums, squares, count = [], [], 0.0, 0.0, 0
    for part in parts:
        numbers = part.double()
        lows.append(part.amin().float())
        highs.append(part.amax().float())
        sums, squares = sums + numbers.sum(dim=(0, 2, 3, 4)), squares + numbers.square().sum(dim=(0, 2, 3, 4))
        count += numbers[:, 0].numel()
    mean = sums / count
    std = ((squares - count * mean.square()) / max(count - 1, 1)).clamp_min(0.0).sqrt()
    return torch.stack(lows).amin(), torch.stack(highs).amax(), mean.float(), std.float()


def _channels(x: Float[Tensor, " c"]) -> Float[Tensor, "1 c 1 1 1"]:
    return x.view(1, -1, 1, 1, 1)
