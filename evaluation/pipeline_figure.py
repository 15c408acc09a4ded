"""The figure of the whole system for the README: what is data, what is trained, what is frozen, what judges."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, SOFT = "#1d2530", "#5c6875"
DATA, FROZEN, TRAINED, JUDGE = "#e8ecf1", "#d5e6f3", "#fbe0d2", "#dcefdc"  # what a box is, by its colour
EDGES = {DATA: "#8593a3", FROZEN: "#3f7fb0", TRAINED: "#d2703a", JUDGE: "#4f9a52"}
BOX_HEIGHT = 1.24


def pipeline_figure() -> Figure:
    """The whole system from the X-ray to its evaluation, as drawn in the README."""
    figure = Figure(figsize=(14, 5.9), facecolor="white")
    axis = figure.add_axes((0.005, 0.005, 0.99, 0.99))
    axis.set_xlim(0, 14)
    axis.set_ylim(0, 5.9)
    axis.axis("off")
    top, middle, bottom = 4.95, 3.25, 1.55

    # Conditioning: the X-ray becomes an embedding and a feature volume.
    xray = _box(axis, 0.2, top, 1.55, "X-ray", "frontal, [0, 1]\nDRR or film", DATA)
    encoder = _box(axis, 2.25, top, 1.95, "X-ray encoder", "CNN, trained jointly", TRAINED)
    lift = _box(axis, 4.75, top, 2.2, "lifted features", "each latent voxel reads\nits own cone-beam ray", TRAINED)
    embedding = _box(axis, 4.75, middle, 2.2, "embedding", "adaptive normalisation", TRAINED)
    _arrow(axis, xray, encoder)
    _arrow(axis, encoder, lift)
    _arrow(axis, (encoder[0] + encoder[2] / 2, top - BOX_HEIGHT / 2), (4.75, middle), bend="angle,angleA=-90,angleB=0")

    # The latent diffusion model, and what it is trained on.
    unet = _box(axis, 7.75, middle, 2.35, "3D U-Net DDPM", "denoises CT latents\nstep by step", TRAINED, height=2.0)
    _arrow(axis, embedding, unet)
    _arrow(axis, (6.95, top), (8.9, middle + 1.0), bend="angle,angleA=0,angleB=90")
    ct = _box(axis, 0.2, bottom, 1.55, "training CT", "HU in a window\n→ [−1, 1]", DATA)
    vae = _box(axis, 2.25, bottom, 1.95, "CT encoder", "3D VQ-GAN or\n2D SDXL VAE", FROZEN)
    latents = _box(axis, 4.75, bottom, 2.2, "CT latents", "zero mean, unit std\nper channel, + noise", DATA)
    _arrow(axis, ct, vae)
    _arrow(axis, vae, latents)
    _arrow(axis, (6.95, bottom), (8.9, middle - 1.0), bend="angle,angleA=0,angleB=-90", dashed=True)
    axis.text(7.95, bottom - 0.24, "training only", color=SOFT, fontsize=12, ha="center", style="italic")
    axis.text(10.02, top + 0.12, "noise at the start\nof generation", color=SOFT, fontsize=12, ha="left", va="center")
    axis.add_patch(_line((9.9, top + 0.12), (9.55, middle + 1.02), "arc3,rad=0.25", True))

    # Back to HU, and judged.
    decoder = _box(axis, 10.6, middle, 1.35, "decoder", "latents → HU", FROZEN)
    volume = _box(axis, 12.35, middle, 1.5, "CT volume", "HU, mm, affine\nN samples", DATA)
    judged = "PSNR, SSIM, MAE in HU, lung Dice, re-projection\nbeside baselines and shuffled X-rays"
    _box(axis, 9.15, bottom - 0.1, 4.7, "evaluation", judged, JUDGE)
    _arrow(axis, unet, decoder)
    _arrow(axis, decoder, volume)
    _arrow(axis, (13.1, middle - BOX_HEIGHT / 2), (13.1, bottom - 0.1 + BOX_HEIGHT / 2))

    legend = [
        ("data", DATA),
        ("trained with the DDPM", TRAINED),
        ("trained before, frozen", FROZEN),
        ("judges", JUDGE),
    ]
    left = 0.2
    for text, colour in legend:
        axis.add_patch(FancyBboxPatch((left, 0.2), 0.3, 0.22, "round,pad=0.02", fc=colour, ec=EDGES[colour], lw=1.2))
        axis.text(left + 0.45, 0.31, text, va="center", fontsize=12.5, color=SOFT)
        left += 0.95 + 0.118 * len(text)
    return figure


def _box(axis, left: float, middle: float, width: float, title: str, text: str, colour: str, height=BOX_HEIGHT):
    shape = FancyBboxPatch(
        (left + 0.06, middle - height / 2 + 0.06), width - 0.12, height - 0.12, "round,pad=0.06,rounding_size=0.14"
    )
    shape.set(facecolor=colour, edgecolor=EDGES[colour], linewidth=1.6)
    axis.add_patch(shape)
    lines = text.count("\n") + 1
    axis.text(left + width / 2, middle + 0.13 * lines, title, ha="center", va="center", fontsize=15, weight="bold")
    axis.text(
        left + width / 2, middle - 0.22, text, ha="center", va="center", fontsize=12, color=INK, linespacing=1.25
    )
    return left, middle, width


def _arrow(axis, start, end, bend: str = "arc3", dashed: bool = False) -> None:
    """From box to box (left, middle, width), or from point to point."""
    if len(start) == 3:
        start = (start[0] + start[2], start[1])
    if len(end) == 3:
        end = (end[0], end[1])
    axis.add_patch(_line(start, end, bend, dashed))


def _line(start, end, bend: str, dashed: bool) -> FancyArrowPatch:
    style = "--" if dashed else "-"
    arrow = FancyArrowPatch(
        start, end, connectionstyle=bend, arrowstyle="-|>", mutation_scale=19, shrinkA=2, shrinkB=3
    )
    arrow.set(color=SOFT, linewidth=1.9, linestyle=style)
    return arrow
