"""All rows by name, and the check that compared networks have equal parameter counts."""

import torch

from benchmarks.speed import codebook, loading, unet, vae, volume, vqgan
from benchmarks.speed.workload import Row, setting_of

ROWS: dict[str, Row] = {row.name: row for part in (unet, codebook, vqgan, loading, vae, volume) for row in part.ROWS}


def parameter_counts(settings: dict) -> dict[str, dict[str, int]]:
    """Parameters of the compared networks: `{"unet": {"ours": n, peer: n}, "vqgan": …}`."""
    shape = setting_of("unet_forward", settings)
    with torch.device("meta"):
        models = {
            "unet": {name: make(shape, "meta") for name, make in unet.MAKE.items()},
            "vqgan": {"ours": vqgan.make_ours(shape), "monai": vqgan.make_monai(shape)},
        }
    # without codebooks: both have the same, ours are buffers
    return {
        part: {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in found.items()}
        for part, found in models.items()
    }


def check_parameters(settings: dict) -> None:
    """Raises ValueError for networks whose parameter counts differ by more than the tolerance of `settings.yaml`."""
    tolerance = settings["tolerance"]
    for part, counts in parameter_counts(settings).items() if tolerance is not None else ():
        for name, count in counts.items():
            if abs(count / counts["ours"] - 1) > tolerance:
                raise ValueError(
                    f"settings.yaml, networks of {part}: ours has {counts['ours']:,} parameters, {name} {count:,}, "
                    f"more than {tolerance:.0%} apart; change a width"
                )
