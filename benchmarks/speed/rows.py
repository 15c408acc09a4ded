"""All rows by name, and the check that compared networks have equal parameter counts."""

from torch import nn

from benchmarks.speed import codebook, loading, unet, vae, volume, vqgan
from benchmarks.speed.workload import Row

ROWS: dict[str, Row] = {row.name: row for part in (unet, codebook, vqgan, loading, vae, volume) for row in part.ROWS}


def parameter_counts(settings: dict) -> dict[str, dict[str, int]]:
    """Parameters of the compared networks: `{"unet": {"ours": n, peer: n}, "vqgan": …}`."""
    import torch

    sizes, networks = settings["sizes"], settings["networks"]
    shape = {**sizes["unet_forward"], "networks": networks}
    # without codebooks: both have the same, ours are buffers
    with torch.device("meta"):
        return {
            "unet": {
                "ours": _count(unet.make_ours(shape, "meta")),
                "xray2ctpa": _count(unet.make_xray2ctpa(shape, "meta")),
                "monai": _count(unet.make_monai(shape, "meta")),
            },
            "vqgan": {"ours": _count(vqgan.make_ours(shape)), "monai": _count(vqgan.make_monai(shape))},
        }


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def check_parameters(settings: dict) -> None:
    """Refuses networks whose parameter counts differ by more than the tolerance of `settings.yaml`.

    Raises:
        ValueError: naming the network and both counts.
    """
    tolerance = settings["tolerance"]
    if tolerance is None:
        return
    for part, counts in parameter_counts(settings).items():
        for name, count in counts.items():
            if abs(count / counts["ours"] - 1) > tolerance:
                raise ValueError(
                    f"settings.yaml, networks of {part}: ours has {counts['ours']:,} parameters, {name} {count:,}, "
                    f"more than {tolerance:.0%} apart; change a width"
                )
