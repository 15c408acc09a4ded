"""Base of the frozen latent encoders of CT: volume to raw latents to standardised latents, and back.

By default the channels have zero mean and one scale for all, which makes their mean variance 1, as the scaling factor
of latent diffusion does (Rombach et al., arXiv:2112.10752): equal errors of two channels then weigh about equally in
HU. One scale for each channel follows Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion
Models" (2024).
"""

import hashlib
import json
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Float, Int
from torch import Tensor

SCALINGS = ("overall", "unit", "shared", "range")
PREVIEW_SIDE = 16  # latents per side of a preview on a CPU, an eighth of the time of 32


class LatentEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders; a subclass calls `_make_statistics(channels)` and defines `encode_raw` and `decode_raw`.

    Volumes are `(b, 1, D, H, W)` in [-1, 1]; latents `(b, c, d, h, w)`.
    """

    found_at: str | None = None  # path of its checkpoint, if this project trained it
    trained_on: dict = {}  # `key=path` of that checkpoint -> its protocol; empty for public weights
    slicewise = False  # whether it encodes and decodes each slice along D separately

    def _make_statistics(self, channels: int) -> None:
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def encode_raw(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Output of the network; for a posterior its mean."""
        raise NotImplementedError

    def decode_raw(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 D H W"]:
        """Volume of raw latents, without clipping."""
        raise NotImplementedError

    def set_scaling(self, scaling: str) -> "LatentEncoder":
        """Sets the scaling of `measure`: one of `SCALINGS`.

        `overall`: one scale for all channels, a mean variance of 1; `unit` variance per channel; `shared`: one scale,
        with which the strongest channel has unit variance; the `range` [-1, 1] over all (X-ray2CTPA).
        """
        if scaling not in SCALINGS:
            raise ValueError(f"model.latent_scaling={scaling}: choose one of {', '.join(SCALINGS)}")
        self._scaling = scaling
        return self

    def measure(self, raw: Float[Tensor, "n c d h w"] | Iterable[Float[Tensor, "m c d h w"]]) -> None:
        """Stores mean and standard deviation per channel of raw training latents, given whole or in parts."""
        if isinstance(raw, Tensor):
            low, high = raw.amin().float(), raw.amax().float()
            std, mean = torch.std_mean(raw.float(), dim=(0, 2, 3, 4))
        else:
            low, high, mean, std = _summary(raw)
        scaling = getattr(self, "_scaling", "overall")
        if scaling == "overall":
            std = std.square().mean().sqrt().expand_as(std)
        elif scaling == "shared":
            std = std.amax().expand_as(std)
        elif scaling == "range":
            mean, std = ((low + high) / 2).expand_as(mean), ((high - low) / 2).expand_as(std)
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp_min(1e-6))
        self.measured.fill_(True)

    def standardise(self, raw: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """Raw to standardised latents; a `RuntimeError` before `measure`."""
        if not self.measured:
            raise RuntimeError("latent statistics were not measured: call measure(raw training latents) first")
        return (raw - _channels(self.latent_mean)) / _channels(self.latent_std)

    def unstandardise(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """Inverse of `standardise`."""
        return latents * _channels(self.latent_std) + _channels(self.latent_mean)

    @torch.no_grad()
    def encode(self, volume: Float[Tensor, "b 1 D H W"]) -> Float[Tensor, "b c d h w"]:
        """Standardised latents of volumes in [-1, 1]."""
        return self.standardise(self.encode_raw(volume))

    def decode(self, latents: Float[Tensor, "b c d h w"], clip: bool = True) -> Float[Tensor, "b 1 D H W"]:
        """Volumes of standardised latents, clipped to [-1, 1] except for losses, since clipping stops gradients."""
        volume = self.decode_raw(self.unstandardise(latents))
        return volume.clamp(-1.0, 1.0) if clip else volume

    @torch.no_grad()
    def preview(self, latents: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 1 P Q R"]:
        """Volumes in [-1, 1] for pictures during sampling, on a CPU of downsampled latents where these are large."""
        if latents.device.type == "cpu":
            size = [min(side, PREVIEW_SIDE) for side in latents.shape[2:]]
            latents = F.interpolate(latents, size=size, mode="trilinear")
        return self.decode(latents)

    @torch.no_grad()
    def latent_shape(self, volume_size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """`(c, d, h, w)` of the latents of a volume, by encoding one on the meta device."""
        known = self.__dict__.setdefault("_shapes", {})
        if volume_size not in known:
            with torch.device("meta"):
                shadow = type(self)(**{k: v for k, v in self.config.items() if not k.startswith("_")})
                known[volume_size] = tuple(shadow.encode_raw(torch.zeros(1, 1, *volume_size)).shape[1:])
        return known[volume_size]

    def measured_slices(self, depth: int, slices: int = 8) -> Int[Tensor, " n"]:
        """Numbers of the slices of `reconstruct`: all, of a slicewise encoder at most `slices`, evenly spread."""
        count = min(depth, slices) if self.slicewise else depth
        return torch.linspace(0, depth - 1, count).round().long()

    @torch.no_grad()
    def reconstruct(self, volume: Float[Tensor, "b 1 D H W"], slices: int = 8) -> tuple[Tensor, Tensor]:
        """The volume, of a slicewise encoder only `slices` of its slices, and its reconstruction, both in [-1, 1]."""
        volume = volume.index_select(2, self.measured_slices(volume.shape[2], slices).to(volume.device))
        return volume, self.decode_raw(self.encode_raw(volume)).float().clamp(-1.0, 1.0)

    def fingerprint(self) -> str:
        """Key of cached latents: 16 hex digits of the weights and settings, without the statistics."""
        ignored = ("source", "slices_per_batch", "tile", "halo")  # origin and batching do not change latents
        settings = {k: v for k, v in dict(self.config).items() if not k.startswith("_") and k not in ignored}
        digest = hashlib.sha256(f"{type(self).__name__} {json.dumps(settings, sort_keys=True)}".encode())
        for name, value in sorted(self.state_dict().items()):
            if name not in ("latent_mean", "latent_std", "measured"):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _summary(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lowest and highest value, and mean and standard deviation per channel, over all parts."""
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
