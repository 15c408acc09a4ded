"""CTs that exist only as the ancestor's pre-encoded latents: found by their `.npy` files, decoded to HU volumes.

X-ray2CTPA stored `[4, height, width, slices]`: *samples* of the posterior of `stabilityai/sd-vae-ft-mse` times
0.18215, of a lung box resized to a fixed size. So a quarter of their variance is noise, HU outside the window are
lost, and nobody knows the spacing: what is decoded is marked nominal. Encode the CTs themselves where they are there.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.io.dicom_series import CtSeries, folders_of

CHANNELS = 4
SCALE = 0.18215  # what the latents were multiplied with
NOMINAL_MM = (240.0, 200.0, 290.0)  # (D, H, W) of an adult's lung box, for a volume that was resized to a fixed size
SLICES_AT_ONCE = 8
FLAGS = (
    "decoded from latents: HU outside their window are lost",
    "spacing is nominal: the volume was resized before it was encoded",
)


def is_latents(series: CtSeries) -> bool:
    """Whether a case has to be decoded rather than read."""
    return series.files[0].suffix.lower() == ".npy"


def find_latents(source: str | Path, exclude: Iterable[Path] = ()) -> list[CtSeries]:
    """Every file of latents under `source`; its name is its accession number, subject, or `<study>_<series>`."""
    source, found = Path(source), []
    for files in folders_of(source, exclude=[str(Path(p).resolve()) for p in exclude]):
        for path in (Path(name) for name in files if name.lower().endswith(".npy")):
            if _shape(path)[:1] == (CHANNELS,) and len(_shape(path)) == 4:
                study, _, series = path.stem.partition("_")
                own = path.relative_to(source).as_posix()
                found.append(
                    CtSeries(
                        [path],
                        patient=study if series else path.stem,
                        study_uid=study if series else "",
                        series_uid=series or own,
                        accession=path.stem,
                    )
                )
    return found


def read_latents(path: str | Path) -> Float[np.ndarray, "c d h w"]:
    """One file in our order of axes, without the ancestor's factor.

    Raises:
        UserError: no array of numbers with four dimensions and 4 channels first, or one that holds NaN.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a NumPy array of numbers; give latents saved with numpy.save") from error
    if array.ndim != 4 or array.shape[0] != CHANNELS:
        raise UserError(f"{path}: shape {list(array.shape)} where latents are [4, height, width, slices]")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: latents that are NaN or infinite; encode this CT again")
    return np.ascontiguousarray(np.transpose(array, (0, 3, 1, 2)), dtype=np.float32) / SCALE


def decode_latents(
    path: str | Path, decode: Callable[[Float[Tensor, "n 4 h w"]], Float[Tensor, "n 3 y x"]], window: Window
) -> Volume:
    """The HU volume of one file of latents; its spacing is nominal.

    Args:
        decode: slices of latents to pictures in [-1, 1], as `load_decoder` gives it.
        window: HU that -1 and 1 stand for: `ctpa`, for LIDC `lidc`.
    """
    latents = torch.from_numpy(read_latents(path)).movedim(0, 1)
    with torch.inference_mode():
        pictures = torch.cat([decode(part).mean(dim=1) for part in latents.split(SLICES_AT_ONCE)])
    hu = window.denormalise(pictures.clamp(-1.0, 1.0)).numpy().astype(np.float32)
    return Volume(hu, tuple(mm / n for mm, n in zip(NOMINAL_MM, hu.shape, strict=True)))


def load_decoder(vae_ckpt: str | None) -> Callable[[Tensor], Tensor]:
    """The decoder of an `AutoencoderKL`: a diffusers folder, a single `.safetensors`, or a hub id.

    Raises:
        UserError: nothing given, or a VAE that cannot be loaded or has other channels.
    """
    from diffusers import AutoencoderKL

    if not vae_ckpt:
        raise UserError("vae_ckpt is missing: latents need the VAE that made them, such as stabilityai/sd-vae-ft-mse")
    try:
        one_file = str(vae_ckpt).endswith(".safetensors")
        vae = (AutoencoderKL.from_single_file if one_file else AutoencoderKL.from_pretrained)(str(vae_ckpt))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"vae_ckpt={vae_ckpt}: cannot be loaded ({reason}); give a folder with config.json and "
            "diffusion_pytorch_model.safetensors, or bring the hub's files into its cache"
        ) from error
    if vae.config.latent_channels != CHANNELS:
        raise UserError(f"vae_ckpt={vae_ckpt}: {vae.config.latent_channels} latent channels where the files have 4")
    vae = vae.float().eval().requires_grad_(False)
    return lambda latents: vae.decode(latents).sample


def _shape(path: Path) -> tuple[int, ...]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError, EOFError, AttributeError):
        return ()
