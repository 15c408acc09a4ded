"""Pictures of the sweeps: quality against network evaluations, and against the guidance scale."""

import numpy as np
from matplotlib.figure import Figure

COLOURS = {
    "DPM-Solver++ in log-SNR": "#d1495b",
    "DPM-Solver++ SDE in log-SNR": "#6d597a",
    "DPM-Solver++ in time": "#edae49",
    "DDIM": "#66a182",
    "ancestral": "#22577a",
}
GUIDANCE_COLOURS = ("#d1495b", "#22577a")
NAMED = {
    "default": "DPM-Solver++ in time",
    "preview": "DPM-Solver++ in time",
    "sde": "DPM-Solver++ SDE in log-SNR",
}


def family_of(name: str) -> str:
    """Solver of a sampler; one curve per solver."""
    return NAMED.get(name) or name.rpartition(",")[0]


def quality_picture(result: dict) -> Figure:
    """PSNR of one sample and of the mean, spread and gradient against network evaluations, one line per solver."""
    keys = "psnr_one", "psnr_mean_of_all", "spread", "gradient"
    titles = "one sample: PSNR, dB", "mean of all samples: PSNR, dB", "spread of samples, HU", "mean gradient, HU/mm"
    figure, axes = _panels(titles, "network evaluations of a sample")
    reference = result["ways"].get(result["reference"])
    for axis, key in zip(axes, keys, strict=True):
        if reference is not None:
            axis.axhline(reference[key]["mean"], color="#c9ced4", linewidth=1)
        for family, colour in COLOURS.items():
            points = sorted(
                (way["evaluations"], way[key]["mean"], name)
                for name, way in result["ways"].items()
                if family_of(name) == family
            )
            if points:
                x, y, names = zip(*points, strict=True)
                axis.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.2, label=family)
                for a, b, name in zip(x, y, names, strict=True):
                    if name in NAMED:
                        axis.annotate(name, (a, b), textcoords="offset points", xytext=(4, -9), fontsize=7)
        axis.set_xscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=7, frameon=False)
    return figure


def guidance_picture(result: dict) -> Figure:
    """Errors, spread and distance of spectra against the guidance scale, 95 % intervals."""
    keys = ("psnr_one", "psnr_mean"), ("spread",), ("gradient_spectrum",), ("noise_power_spectrum",)
    titles = "PSNR, dB", "spread of samples, HU", "gradient spectrum, HU/mm", "noise power, dB"
    figure, axes = _panels(titles, "guidance scale")
    ways = sorted(result["ways"].values(), key=lambda way: way["guidance_scale"])
    scales = [way["guidance_scale"] for way in ways]
    for axis, shown in zip(axes, keys, strict=True):
        for key, colour in zip(shown, GUIDANCE_COLOURS, strict=False):
            mean, low, high = (np.array([way[key][end] for way in ways], float) for end in ("mean", "low", "high"))
            around = np.nan_to_num([mean - low, high - mean]).clip(min=0.0)
            label = {"psnr_one": "one sample", "psnr_mean": "mean"}.get(key)
            axis.errorbar(scales, mean, around, fmt="o-", color=colour, markersize=3.5,
                          linewidth=1.2, elinewidth=0.7, label=label)  # fmt: skip
        if len(shown) > 1:
            axis.legend(fontsize=7, frameon=False)
    return figure


def _panels(titles: tuple[str, ...], label: str) -> tuple[Figure, list]:
    figure = Figure(figsize=(11.0, 3.2), layout="constrained")
    axes = figure.subplots(1, len(titles))
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(label, fontsize=9)
    return figure, axes
